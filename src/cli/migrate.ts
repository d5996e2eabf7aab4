import { createLogger, type LogLevel, type Logger } from '../base/log.js';
import { checkUrls } from '../config.js';
import { directWay, waitForDatabase } from '../store/connect.js';
import { startEmbeddedPostgres } from '../store/embedded/embedded-postgres.js';
import { migrate } from '../store/migrate.js';
import { StopSignals } from './signals.js';

export interface MigrateFlags {
  databaseUrl?: string;
  listenUrl?: string;
  dataDir: string;
  logLevel: LogLevel;
  count?: string;
}

interface Steps {
  readonly direction: 'up' | 'down';
  readonly count?: number;
}

export async function runMigrate(direction: string, flags: MigrateFlags): Promise<void> {
  if (direction !== 'up' && direction !== 'down') throw new Error('the direction must be up or down');
  const count = flags.count === undefined ? undefined : Number(flags.count);
  if (count !== undefined && !(Number.isInteger(count) && count > 0))
    throw new Error('--count must be a positive number');
  checkUrls(flags);
  const log = createLogger(flags.logLevel);
  const stop = new StopSignals();
  try {
    const steps = { direction, ...(count === undefined ? {} : { count }) } as const;
    const names = await onDatabase(steps, flags, log, stop.signal);
    const verb = direction === 'up' ? 'applied' : 'taken back';
    process.stdout.write(
      names.length === 0 ? 'nothing to do\n' : names.map((name) => `${verb}: ${name}\n`).join(''),
    );
  } finally {
    stop.release();
    if (stop.signal.aborted) stop.endSoon();
  }
}

async function onDatabase(
  steps: Steps,
  { databaseUrl, listenUrl, dataDir }: MigrateFlags,
  log: Logger,
  signal: AbortSignal,
): Promise<string[]> {
  if (databaseUrl === undefined) {
    const embedded = await startEmbeddedPostgres({ dataDir, log, signal });
    try {
      return await migrate({ ...steps, databaseUrl: embedded.url, log, signal });
    } finally {
      await embedded.stop();
    }
  }
  await waitForDatabase(directWay(databaseUrl, listenUrl), { log, signal });
  return migrate({ ...steps, databaseUrl: listenUrl ?? databaseUrl, log, signal });
}
