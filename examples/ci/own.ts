import { readFile, realpath, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ROOT } from './build.js';
import { run } from './children.js';

/** What one run is to test. */
export interface Case {
  /** A path or a URL. */
  readonly repository: string;
  readonly ref: string;
  /** A line for the shell; undefined for what the repository's files tell. */
  readonly command: string | undefined;
}

/**
 * Baton's own install, build and test, of which one file is run: the whole takes minutes, and contains this example.
 * It holds the `.proto` files to what was released.
 */
const COMMAND = 'npm ci --prefer-offline --no-audit --no-fund && npm test -- contract';

/** The mistake of the failing run: a field gets another number, so that no client of before can read it. */
const BREAK = {
  file: 'proto/baton/v1/run.proto',
  from: 'string repository = 6;',
  to: 'string repository = 60;',
  message: 'Renumber Run.repository',
};

/** Whether the folder is the top of a git repository that has a commit. */
export async function isCheckout(folder: string): Promise<boolean> {
  try {
    await run({ program: 'git', args: ['-C', folder, 'rev-parse', '--verify', 'HEAD'] });
    const top = await run({ program: 'git', args: ['-C', folder, 'rev-parse', '--show-toplevel'] });
    return (await realpath(top.trim())) === (await realpath(folder));
  } catch {
    return false;
  }
}

/** A clone of the checkout with a commit that breaks it, in which Baton's own tests are to find the mistake. */
async function breakClone(ref: string, folder: string, signal: AbortSignal): Promise<void> {
  const git = (...args: string[]): Promise<string> => run({ program: 'git', args }, signal);
  await git('clone', '--quiet', '--no-checkout', ROOT, folder);
  await git('-C', folder, 'fetch', '--quiet', 'origin', ref);
  await git('-C', folder, 'checkout', '--quiet', '--detach', 'FETCH_HEAD');
  const file = join(folder, BREAK.file);
  const before = await readFile(file, 'utf8');
  if (!before.includes(BREAK.from)) throw new Error(`${BREAK.file} has no "${BREAK.from}" to break`);
  await writeFile(file, before.replace(BREAK.from, BREAK.to));
  const author = [
    '-c',
    'user.name=Example',
    '-c',
    'user.email=example@example.com',
    '-c',
    'commit.gpgsign=false',
  ];
  await git('-C', folder, ...author, 'commit', '--quiet', '--all', '--no-verify', '--message', BREAK.message);
}

interface OwnOptions {
  readonly ref: string;
  /** Undefined for the tests of the contract. */
  readonly command: string | undefined;
  /** Where to make the clone with the mistake. */
  readonly brokenClone: string;
  readonly signal: AbortSignal;
}

/** Baton tests itself: its commit passes, and one with a mistake on top of it fails. */
export async function batonsOwn(options: OwnOptions): Promise<[Case, Case]> {
  const { ref, brokenClone, signal } = options;
  if (!(await isCheckout(ROOT)))
    throw new Error(`${ROOT} is no git checkout: name a repository with --repository`);
  await breakClone(ref, brokenClone, signal);
  const command = options.command ?? COMMAND;
  return [
    { repository: await realpath(ROOT), ref, command },
    { repository: brokenClone, ref: 'HEAD', command },
  ];
}
