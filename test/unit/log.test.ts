import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { logInternalError } from '../../src/base/internal_error.js';
import { LIMITS } from '../../src/base/limits.js';
import { createLogger, type Logger, type LogLevel } from '../../src/base/log.js';
import { ManualClock } from '../support/manual_clock.js';

type Line = Record<string, unknown>;

/** A logger as the program has it, its lines, and whether its reader stands still. */
function startLog(level: LogLevel = 'info'): {
  log: Logger;
  clock: ManualClock;
  lines: Line[];
  stream: { isStuck: boolean; release(): void };
} {
  const lines: Line[] = [];
  const stuck: (() => void)[] = [];
  const stream = {
    isStuck: false,
    release: () => stuck.splice(0).forEach((done) => done()),
  };
  const writable = new Writable({
    write(text: Buffer, _encoding, done) {
      const end = (): void => {
        for (const line of text.toString().trim().split('\n')) lines.push(JSON.parse(line) as Line);
        done();
      };
      if (stream.isStuck) stuck.push(end);
      else end();
    },
  });
  const clock = new ManualClock();
  return { log: createLogger(level, { stream: writable, clock }), clock, lines, stream };
}

test('of ten thousand lines of one kind a few are written, and one that says how many more there were', async () => {
  const { log, clock, lines } = startLog();
  for (let n = 0; n < 10_000; n += 1) log.warn({ n }, 'it happens again');
  log.warn('something else');
  assert.equal(lines.length, LIMITS.logLines + 1);
  await clock.pass(LIMITS.logWindowMs);
  const summary = lines.at(-1);
  assert.deepEqual(
    [summary?.['level'], summary?.['suppressed'], summary?.['msg']],
    [40, 10_000 - LIMITS.logLines, `suppressed ${10_000 - LIMITS.logLines} of 'it happens again'`],
  );
  log.warn('it happens again');
  assert.equal(lines.at(-1)?.['msg'], 'it happens again');
  await clock.pass(LIMITS.logWindowMs);
  assert.equal(lines.length, LIMITS.logLines + 3);
});

test('kinds differ by level, message and sort of error; there is a limit to how many are told apart', () => {
  const { log, lines } = startLog();
  for (let n = 0; n < 2 * LIMITS.logLines; n += 1) {
    log.warn({ err: new TypeError('x is no function') }, 'failed');
    log.error({ err: new TypeError('x is no function') }, 'failed');
    log.warn({ err: new TypeError('y is no function') }, 'failed');
    log.warn({ code: '53100' }, 'failed');
  }
  assert.equal(lines.length, 4 * LIMITS.logLines);
  for (let n = 0; n < 100 * LIMITS.logKinds; n += 1) log.warn(`line ${n}`);
  assert.ok(lines.length <= LIMITS.logKinds + 5 * LIMITS.logLines, String(lines.length));
});

test('who asks for debug gets every line of it', () => {
  const { log, lines } = startLog('debug');
  for (let n = 0; n < 1000; n += 1) log.debug('call');
  assert.equal(lines.length, 1000);
});

test('each id of an internal error that was given out is in the log', () => {
  const { log, lines } = startLog();
  const ids = new Set<string>();
  for (let n = 0; n < 10_000; n += 1) {
    ids.add(logInternalError(log, new TypeError('x is no function'), 'internal error'));
    if (n % 1000 === 0) ids.add(logInternalError(log, new RangeError('too long'), 'internal error'));
  }
  const logged = new Set(lines.map((line) => line['error_id']));
  assert.deepEqual(
    [...ids].filter((id) => !logged.has(id)),
    [],
  );
  assert.ok(lines.length <= 2 * LIMITS.logLines, String(lines.length));
});

test('a reader that stands still costs a bounded number of lines, and hears how many it has lost', () => {
  const { log, lines, stream } = startLog('debug');
  stream.isStuck = true;
  const text = 'x'.repeat(1000);
  for (let n = 0; n < 5000; n += 1) log.debug(text);
  assert.equal(lines.length, 0);
  stream.isStuck = false;
  stream.release();
  const before = lines.length;
  assert.ok(before * 1000 < LIMITS.logPendingBytes && before * 1100 > LIMITS.logPendingBytes, String(before));
  log.debug('well again');
  assert.deepEqual(
    lines.slice(before).map((line) => [line['msg'], line['lines']]),
    [
      ['log lines were lost', 5000 - before],
      ['well again', undefined],
    ],
  );
});
