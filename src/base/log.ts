import { pino, type Logger } from 'pino';

export type { Logger };

/** Levels that `BATON_LOG_LEVEL` accepts, most talkative first. */
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/**
 * Makes the process's logger: one line of JSON per entry on standard error, so that standard output stays
 * free for what a command prints.
 */
export function createLogger(level: LogLevel): Logger {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ fd: 2, sync: true }),
  );
}
