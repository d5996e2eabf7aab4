import { Command } from 'commander';
import { createLogger } from '../base/log.js';
import { DATABASE_OPTIONS, SERVE_OPTIONS, toServeConfig, type ServeFlags } from '../config.js';
import { runMigrate, type MigrateFlags } from './migrate.js';
import { serve } from './serve.js';
import { version } from './version.js';

/** Prints what went wrong in one line and sets the exit code; the stack is of use to nobody here. */
function fail(error: unknown): void {
  process.stderr.write(`baton: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}

/** The `baton` command and its subcommands. */
export function createProgram(): Command {
  const program = new Command('baton')
    .description('A job service on your own PostgreSQL.')
    .version(version())
    .showHelpAfterError();

  const serveCommand = program.command('serve').description('Run the server.');
  for (const option of SERVE_OPTIONS) serveCommand.addOption(option);
  serveCommand.action(async (flags: ServeFlags) => {
    try {
      process.exitCode = await serve(toServeConfig(flags), createLogger(flags.logLevel));
    } catch (error) {
      fail(error);
    }
  });

  const migrateCommand = program
    .command('migrate')
    .description("Bring the database to this program's schema, or take migrations back.")
    .argument('[direction]', 'up or down', 'up')
    .option('--count <n>', 'how many migrations: all for up and one for down by default');
  for (const option of DATABASE_OPTIONS) migrateCommand.addOption(option);
  migrateCommand.action(async (direction: string, flags: MigrateFlags) => {
    try {
      await runMigrate(direction, flags);
    } catch (error) {
      fail(error);
    }
  });

  return program;
}
