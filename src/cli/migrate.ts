import { createLogger, type LogLevel } from '../base/log.js';
import { startEmbeddedPostgres } from '../store/embedded/embedded-postgres.js';
import { migrate } from '../store/migrate.js';

export interface MigrateFlags {
  databaseUrl?: string;
  dataDir: string;
  logLevel: LogLevel;
  count?: string;
}

export async function runMigrate(direction: string, flags: MigrateFlags): Promise<void> {
  if (direction !== 'up' && direction !== 'down') throw new Error('the direction must be up or down');
  const count = flags.count === undefined ? undefined : Number(flags.count);
  if (count !== undefined && !(Number.isInteger(count) && count > 0))
    throw new Error('--count must be a positive number');
  const log = createLogger(flags.logLevel);
  const embedded =
    flags.databaseUrl === undefined
      ? await startEmbeddedPostgres({ dataDir: flags.dataDir, log })
      : undefined;
  try {
    const databaseUrl = flags.databaseUrl ?? embedded?.url ?? '';
    const names = await migrate({ databaseUrl, direction, ...(count === undefined ? {} : { count }), log });
    const verb = direction === 'up' ? 'applied' : 'taken back';
    process.stdout.write(
      names.length === 0 ? 'nothing to do\n' : names.map((name) => `${verb}: ${name}\n`).join(''),
    );
  } finally {
    await embedded?.stop();
  }
}
