import { edit, type Mutant } from './mutant.js';

const DECODE = 'dist/src/rpc/decode/decode.js';
const BOTH = 'both are refused by every way in which JSON can come, with the fields by name';

/** Ways to let a request's JSON be changed in silence. */
export const JSON_MUTANTS: readonly Mutant[] = [
  {
    name: 'times in JSON are left to the library',
    edits: [edit(DECODE, 'checkTimes(schema, json, report);', '')],
    testFile: 'unit/json_rules',
    caughtBy: BOTH,
  },
  {
    name: 'integers in JSON are rounded',
    edits: [edit(DECODE, 'checkIntegers(schema, text, report);', '')],
    testFile: 'unit/json_rules',
    caughtBy: BOTH,
  },
  {
    name: 'a number that no double holds is read as infinite',
    edits: [edit('dist/src/store/jsonb.js', 'BEYOND_DOUBLE.test(text)', 'false')],
    testFile: 'server/sql_numbers',
    caughtBy: 'one that no double holds fails no list, no claim and no stream that it is in',
  },
];
