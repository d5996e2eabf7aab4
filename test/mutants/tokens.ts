import { edit, type Mutant } from './mutant.js';

const SEALED = 'dist/src/base/sealed_token.js';
const PAGE = 'dist/src/service/page_token.js';

/** Ways to let a page token or a resume token lead to another place than the one it was made for. */
export const TOKEN_MUTANTS: readonly Mutant[] = [
  {
    name: 'the seal of a token is not looked at',
    edits: [edit(SEALED, 'bytes.subarray(-SEAL_BYTES).equals(seal(purpose, content))', 'true')],
    caughtBy: 'a page token with any bit flipped, cut or longer is refused',
  },
  {
    name: 'the seal of a token leaves its content out',
    edits: [edit(SEALED, '.update(content)', '')],
    caughtBy: 'a page token with any bit flipped, cut or longer is refused',
  },
  {
    name: 'the seal of a token leaves out what it is for',
    edits: [edit(SEALED, '\\0${purpose}`', '\\0`')],
    caughtBy: 'a page token is of one method and one request',
  },
  {
    name: 'the seal of a token takes purpose and content for one text',
    edits: [edit(SEALED, '\\0${purpose.length}\\0', '\\0')],
    caughtBy: 'what a token is for and what is in it are two things',
  },
  {
    name: 'a token may have what its decoder passes over',
    edits: [edit(SEALED, `bytes.toString('base64url') !== token`, 'false')],
    caughtBy: 'a resume token with any bit flipped, cut or longer is refused',
  },
  {
    name: 'a page token is of any method',
    edits: [edit(PAGE, 'canonicalJson(scope)', 'canonicalJson(scope.slice(1))')],
    caughtBy: 'a page token is of one method and one request',
  },
  {
    name: 'a page token is of any request of its method',
    edits: [edit(PAGE, 'canonicalJson(scope)', 'canonicalJson(scope.slice(0, 1))')],
    caughtBy: 'a page token is of one method and one request',
  },
  {
    name: 'a page token minds the order of a map',
    edits: [edit(PAGE, 'canonicalJson(scope)', 'JSON.stringify(scope)')],
    caughtBy: 'a page token does not mind in which order a client writes a map',
  },
  {
    name: 'the check of a token inside of a batch is not looked at',
    edits: [edit('dist/src/client/batch_token.js', ' || checksum(place) !== check', '')],
    caughtBy:
      'a token inside of a batch with any bit flipped, cut or longer is no place, to client or server',
  },
].map((mutant) => ({ ...mutant, testFile: 'unit/tokens' }));
