import { Command, type Option } from 'commander';
import { createLogger } from '../base/log.js';
import {
  DATABASE_OPTIONS,
  SERVE_OPTIONS,
  tidyEnvironment,
  toServeConfig,
  type ServeFlags,
} from '../config.js';
import { runMigrate, type MigrateFlags } from './migrate.js';
import { serve } from './serve.js';
import { version } from './version.js';

/** What a person has mistyped is shown to him, but for a URL, which has a password. */
function withoutSecrets(text: string): string {
  return text.replace(/(postgres(?:ql)?:\/\/|password=).*/gi, '$1…');
}

/** Prints what went wrong in one line and sets the exit code; the stack is of use to nobody here. */
export function fail(error: unknown): void {
  const text = error instanceof Error ? error.message : String(error);
  process.stderr.write(`baton: ${withoutSecrets(text)}\n`);
  process.exitCode = 1;
}

function addOptions(command: Command, options: readonly Option[]): void {
  tidyEnvironment(options, process.env);
  for (const option of options) command.addOption(option);
}

/**
 * Whoever read the output may have gone (`baton … | head -1`): a command then ends as usual, and a server goes on. Node
 * takes such an error without a listener for a crash.
 */
function bearClosedOutput(): void {
  process.stderr.on('error', () => undefined);
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') fail(error);
  });
}

/** The `baton` command and its subcommands. */
export function createProgram(): Command {
  bearClosedOutput();
  const program = new Command('baton')
    .description('A job service on your own PostgreSQL.')
    .version(version())
    .configureOutput({ outputError: (text, write) => write(withoutSecrets(text)) })
    .showHelpAfterError();

  const serveCommand = program.command('serve').description('Run the server.');
  addOptions(serveCommand, SERVE_OPTIONS);
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
  addOptions(migrateCommand, DATABASE_OPTIONS);
  migrateCommand.action(async (direction: string, flags: MigrateFlags) => {
    try {
      await runMigrate(direction, flags);
    } catch (error) {
      fail(error);
    }
  });

  return program;
}
