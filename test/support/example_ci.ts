import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Command } from '../../examples/ci/children.js';
import { waitFor, within } from './wait.js';

const MAIN = fileURLToPath(new URL('../../examples/ci/main.js', import.meta.url));

const execute = promisify(execFile);

/** What a test runner tells its children must not reach the tests that the example runs. */
export function plainEnv(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) => name !== 'DATABASE_URL' && !name.startsWith('BATON_') && !name.startsWith('NODE_TEST'),
  );
  return Object.fromEntries(kept);
}

/** A program in a process of its own, with all that it printed. */
export class Program {
  readonly child: ChildProcess;
  readonly exited: Promise<number | null>;
  output = '';

  constructor(command: Command) {
    this.child = spawn(command.program, command.args, {
      env: { ...plainEnv(), ...command.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    }
    this.exited = new Promise((resolve, reject) => {
      this.child.once('error', reject);
      this.child.once('close', (code) => resolve(code));
    });
  }

  async printed(text: string): Promise<void> {
    await waitFor(() => this.output.includes(text), `"${text}" to be printed`, 20_000);
  }

  /** Signals it, unless it has ended, and waits for its end. */
  async end(signal: NodeJS.Signals): Promise<number | null> {
    this.child.kill(signal);
    return within(this.exited, `the program to end after ${signal}`, 20_000);
  }
}

/** The one command of the example, with a folder of its own for temporary files. */
export function exampleCommand(temporary: string, ...args: string[]): Command {
  return { program: process.execPath, args: [MAIN, ...args], env: { TMPDIR: temporary } };
}

/** Processes that have the text in their command line or their environment; Linux only, else none. */
export async function processesWith(text: string): Promise<string[]> {
  if (process.platform !== 'linux') return [];
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter(
    (name) => /^\d+$/.test(name) && name !== `${process.pid}`,
  )) {
    const read = (file: string): Promise<string> => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '');
    const commandLine = await read('cmdline');
    if (`${commandLine}\0${await read('environ')}`.includes(text))
      found.push(commandLine.replaceAll('\0', ' '));
  }
  return found;
}

const FILES = {
  'package.json':
    '{ "name": "adder", "type": "module", "scripts": { "test": "node --test --test-reporter=spec" } }\n',
  'add.js': 'export const add = (a, b) => a + b;\n',
  'add.test.js': [
    "import assert from 'node:assert/strict';",
    "import { test } from 'node:test';",
    "import { add } from './add.js';",
    "test('two and three', () => assert.equal(add(2, 3), 5));",
    "test('nothing and one', () => assert.equal(add(0, 1), 1));",
    '',
  ].join('\n'),
};

/** A git repository with tests of its own: both pass on `main`, both fail on the branch `broken`. */
export async function makeRepository(folder: string): Promise<{ good: string; broken: string }> {
  const author = ['-c', 'user.name=Test', '-c', 'user.email=test@example.com', '-c', 'commit.gpgsign=false'];
  const git = async (...args: string[]): Promise<string> =>
    (await execute('git', ['-C', folder, ...author, ...args])).stdout.trim();
  await mkdir(folder);
  await git('init', '--quiet', '--initial-branch=main');
  for (const [name, text] of Object.entries(FILES)) await writeFile(join(folder, name), text);
  await git('add', '--all');
  await git('commit', '--quiet', '--message', 'Add');
  const good = await git('rev-parse', 'HEAD');
  await git('checkout', '--quiet', '-b', 'broken');
  await writeFile(join(folder, 'add.js'), 'export const add = (a, b) => a || b + 3;\n');
  await git('commit', '--quiet', '--all', '--message', 'Multiply');
  const broken = await git('rev-parse', 'HEAD');
  await git('checkout', '--quiet', 'main');
  return { good, broken };
}
