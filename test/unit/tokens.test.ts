/**
 * Tokens that clients keep: a page token and a resume token that was changed in one bit, cut, made longer or meant for
 * something else is refused, never another place; a lease token with such a fault names another lease or none.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { BatonError } from '../../src/base/errors.js';
import { openToken, sealToken } from '../../src/base/sealed_token.js';
import { batchToken, parseBatchToken } from '../../src/client/batch_token.js';
import { decodePageToken, encodePageToken, type PageScope } from '../../src/service/page_token.js';
import { decodeLeaseToken, encodeLeaseToken } from '../../src/store/lease_token.js';
import { decodeResumeToken, encodeResumeToken } from '../../src/watch/resume_token.js';

const EPOCH = '0f5f6d1e-3c9b-4c43-9f0e-2a1b3c4d5e6f';
const RUN = '018f4e9a-0000-7000-8000-000000000001';

/** Every text that one accident makes of a token. */
function accidents(token: string): string[] {
  const flipped = Array.from(token).flatMap((char, at) =>
    Array.from({ length: 8 }, (_, bit) => {
      const other = String.fromCodePoint(char.codePointAt(0)! ^ (1 << bit));
      return token.slice(0, at) + other + token.slice(at + 1);
    }),
  );
  const cut = Array.from({ length: token.length - 1 }, (_, at) => [
    token.slice(0, at + 1),
    token.slice(at + 1),
  ]);
  const longer = ['A', '_', '=', ' ', '\n', '\0', 'é'].flatMap((char) => [token + char, char + token]);
  const standard = token.replaceAll('-', '+').replaceAll('_', '/');
  const others = [token + token, token.toLowerCase(), `${token}==`, standard];
  return [...new Set([...flipped, ...cut.flat(), ...longer, ...others])].filter((text) => text !== token);
}

function assertRefused(field: string, call: () => unknown, what: string): void {
  try {
    const value = call();
    assert.fail(`${what} was taken for ${JSON.stringify(value, (_, item: unknown) => String(item))}`);
  } catch (error) {
    if (!(error instanceof BatonError)) throw error;
    assert.equal(error.reason, 'INVALID_ARGUMENT', what);
    assert.deepEqual(
      error.violations.map((violation) => violation.field),
      [field],
      what,
    );
  }
}

const anyKey = (): boolean => true;

const PAGES: readonly { readonly scope: PageScope; readonly key: string; readonly epoch?: string }[] = [
  { scope: ['ListRuns', { statuses: ['new'], labels: { a: '1' } }], key: RUN, epoch: EPOCH },
  { scope: ['ListRuns', { statuses: ['old'], labels: { a: '1' } }], key: RUN, epoch: EPOCH },
  { scope: ['ListRunEvents', RUN], key: '12345', epoch: EPOCH },
  { scope: ['ListRunEvents', EPOCH], key: '12345', epoch: EPOCH },
  { scope: ['AnotherMethod', RUN], key: '12345', epoch: EPOCH },
  { scope: ['ListPipelines'], key: 'ci' },
];

void test('a page token with any bit flipped, cut or longer is refused', () => {
  let count = 0;
  for (const { scope, key, epoch } of PAGES) {
    const token = encodePageToken(key, scope, epoch);
    assert.deepEqual(decodePageToken(token, scope, anyKey), { key, epoch });
    for (const text of accidents(token)) {
      assertRefused('page_token', () => decodePageToken(text, scope, anyKey), JSON.stringify(text));
      count++;
    }
  }
  assert.ok(count > 4000, `only ${count} were tried`);
});

void test('a page token is of one method and one request', () => {
  for (const made of PAGES) {
    const token = encodePageToken(made.key, made.scope, made.epoch);
    for (const asked of PAGES) {
      if (asked === made) continue;
      assertRefused('page_token', () => decodePageToken(token, asked.scope, anyKey), asked.scope[0]);
    }
  }
});

void test('a page token does not mind in which order a client writes a map', () => {
  const token = encodePageToken(RUN, ['ListRuns', { labels: { a: '1', b: '2' }, stages: [] }], EPOCH);
  const again: PageScope = ['ListRuns', { stages: [], labels: { b: '2', a: '1' } }];
  assert.equal(decodePageToken(token, again, anyKey)?.key, RUN);
  const other: PageScope = ['ListRuns', { stages: [], labels: { b: '1', a: '2' } }];
  assertRefused('page_token', () => decodePageToken(token, other, anyKey), 'other labels');
});

void test('a resume token with any bit flipped, cut or longer is refused', () => {
  for (const revision of [0n, 1n, 488n, 1000n, 2n ** 63n - 1n]) {
    const token = encodeResumeToken({ epoch: EPOCH, revision });
    assert.deepEqual(decodeResumeToken(token), { epoch: EPOCH, revision });
    for (const text of accidents(token))
      assertRefused('after', () => decodeResumeToken(text), JSON.stringify(text));
  }
});

void test('a token inside of a batch with any bit flipped, cut or longer is no place, to client or server', () => {
  const token = encodeResumeToken({ epoch: EPOCH, revision: 7n });
  const inBatch = batchToken(token, 12_345n);
  assert.deepEqual(parseBatchToken(inBatch), { token, revision: 12_345n });
  for (const text of accidents(inBatch)) {
    const found = parseBatchToken(text);
    const place = found?.token ?? text;
    // What is cut from the beginning may leave the server's token: the place that the batch begins at.
    if (place === token) assert.ok(inBatch.endsWith(text), text);
    else assertRefused('after', () => decodeResumeToken(place), JSON.stringify(text));
  }
});

void test('a token of one kind is none of another', () => {
  const page = encodePageToken(RUN, ['ListPipelines']);
  const lease = encodeLeaseToken({ number: 7n, id: EPOCH });
  const resume = encodeResumeToken({ epoch: EPOCH, revision: 7n });
  for (const text of [page, lease, randomUUID(), 'oldest'])
    assertRefused('after', () => decodeResumeToken(text), text);
  for (const text of [resume, lease, randomUUID()])
    assertRefused('page_token', () => decodePageToken(text, ['ListPipelines'], anyKey), text);
  for (const text of [page, resume, randomUUID(), '']) assert.equal(decodeLeaseToken(text), undefined, text);
});

void test('a lease token with any bit flipped, cut or longer is of another lease or of none', () => {
  const key = { number: 5_000_000_000n, id: EPOCH };
  const token = encodeLeaseToken(key);
  assert.deepEqual(decodeLeaseToken(token), key);
  for (const text of accidents(token)) assert.notDeepEqual(decodeLeaseToken(text), key, JSON.stringify(text));
});

void test('what somebody else has sealed is refused as well', () => {
  const scope: PageScope = ['ListPipelines'];
  const isCi = (key: string): boolean => key === 'ci';
  for (const content of ['', 'x', '{}', '[]', '[1]', '["ci",2]', '["ci","",""]', '["other"]']) {
    const token = sealToken('page ["ListPipelines"]', Buffer.from(content));
    assertRefused('page_token', () => decodePageToken(token, scope, isCi), content);
  }
  assert.equal(decodePageToken(encodePageToken('ci', scope), scope, isCi)?.key, 'ci');
  for (const bytes of [Buffer.alloc(0), Buffer.alloc(23), Buffer.alloc(25), Buffer.alloc(24, 0xff)])
    assertRefused('after', () => decodeResumeToken(sealToken('resume', bytes)), bytes.toString('hex'));
});

void test('a huge text is refused without a look at it', () => {
  const started = performance.now();
  const huge = 'A'.repeat(16 * 1024 * 1024);
  for (let n = 0; n < 100; n++) assert.equal(openToken('page', huge), undefined);
  const tookMs = performance.now() - started;
  console.log(`100 texts of 16 MiB took ${tookMs.toFixed(1)} ms, at most 10 are meant`);
  assert.ok(tookMs < 100);
});

void test('what a token is for and what is in it are two things', () => {
  const content = Buffer.from('bc');
  assert.equal(openToken('a', sealToken('a', content))?.toString(), 'bc');
  assert.equal(openToken('ab', sealToken('a', content)), undefined);
  const [long, short] = [sealToken('ab', Buffer.from('c')), sealToken('a', Buffer.from('bc'))];
  const sealOf = (token: string): string => Buffer.from(token, 'base64url').subarray(-8).toString('hex');
  assert.notEqual(sealOf(long), sealOf(short));
});
