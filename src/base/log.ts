import type { Writable } from 'node:stream';
import { pino, type Logger, type LogFn } from 'pino';
import { systemClock, type Clock } from './clock.js';
import { LineLimit } from './log_limit.js';
import { LogSink } from './log_sink.js';

export type { Logger };

/** Levels that `BATON_LOG_LEVEL` accepts, most talkative first. */
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Below it, somebody has asked for every line. */
const LIMITED_LEVEL = 30;

/**
 * Makes the process's logger: one line of JSON per entry on standard error, so that standard output stays free for what
 * a command prints. Lines from `info` on are limited for each kind, see `LineLimit`; writing never waits, see `LogSink`.
 */
export function createLogger(
  level: LogLevel,
  { stream = process.stderr, clock = systemClock }: { stream?: Writable; clock?: Clock } = {},
): Logger {
  const limit = new LineLimit<LastLine>(clock, (suppressed, { write, fields, message }) =>
    write({ ...fields, suppressed }, `suppressed ${suppressed} of '${message}'`),
  );
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      hooks: {
        logMethod(args, method, number) {
          if (number < LIMITED_LEVEL || mayWrite(limit, args, method.bind(this), number))
            method.apply(this, args);
        },
      },
    },
    new LogSink(stream),
  );
}

/** The last line of a kind that was written: what a summary repeats of it, and how to write at its level. */
interface LastLine {
  readonly write: LogFn;
  readonly fields: { readonly code?: unknown; readonly reason?: unknown };
  readonly message: string;
}

function mayWrite(limit: LineLimit<LastLine>, args: unknown[], write: LogFn, level: number): boolean {
  const [first, second] = args;
  const fields: Fields = typeof first === 'object' && first !== null ? first : {};
  // Each of these is an id that a client was given, and their number is limited where they are made.
  if (fields.error_id !== undefined) return true;
  const message = String(typeof first === 'string' ? first : second);
  const { code, reason } = fields;
  const line: LastLine = {
    write,
    fields: { ...(code === undefined ? {} : { code }), ...(reason === undefined ? {} : { reason }) },
    message,
  };
  const kind = `${level} ${kindOf(fields.err ?? { code }, message)}`;
  return limit.admit(kind, line) === line;
}

interface Fields {
  readonly err?: unknown;
  readonly error_id?: unknown;
  readonly code?: unknown;
  readonly reason?: unknown;
}

/** How much of an error's own text makes it one of a kind. */
const KIND_CHARS = 80;

/** Lines alike: the same message about the same sort of error. */
export function kindOf(error: unknown, message: string): string {
  if (typeof error !== 'object' || error === null) return message;
  const { name, code, message: text } = error as { name?: unknown; code?: unknown; message?: unknown };
  const parts = [name, code, typeof text === 'string' ? text.slice(0, KIND_CHARS) : undefined];
  return [message, ...parts.filter((part) => typeof part === 'string')].join(' ');
}
