import { spawn } from 'node:child_process';
import { cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** A fenced block of the page: ```` ```rust src/main.rs ```` is of that file, ```` ```sh ```` are commands. */
export interface Block {
  readonly language: string;
  readonly file: string | undefined;
  readonly text: string;
}

/** The blocks of docs/clients.md under each heading of a language. */
export async function readPage(): Promise<ReadonlyMap<string, readonly Block[]>> {
  const page = await readFile(join(ROOT, 'docs', 'clients.md'), 'utf8');
  const sections = page.split(/^## /m).slice(1);
  return new Map(
    sections.map((section) => {
      const title = section.slice(0, section.indexOf('\n'));
      const blocks = [...section.matchAll(/^```(\w+)(?: (\S+))?\n(.*?)^```$/gms)];
      return [title, blocks.map(([, language = '', file, text = '']) => ({ language, file, text }))];
    }),
  );
}

/** What the package is made from. */
const SOURCES = [
  'package.json',
  'tsconfig.json',
  'CHANGELOG.md',
  'LICENSE',
  'README.md',
  'gen',
  'migrations',
  'src',
];

/**
 * Makes the package from a copy of this tree as a fresh clone has it, and unpacks it: what a user gets.
 *
 * @returns the folder of the package
 */
export async function packInto(folder: string): Promise<string> {
  const clone = join(folder, 'clone');
  for (const name of [...SOURCES, 'proto/baton'])
    await cp(join(ROOT, name), join(clone, name), { recursive: true });
  await symlink(join(ROOT, 'node_modules'), join(clone, 'node_modules'), 'junction');
  await run(clone, 'npm pack --silent && tar -xzf baton-*.tgz');
  return join(clone, 'package');
}

/** An empty folder with the package's `proto`, and with the files that the page has for a language. */
export async function startProject(folder: string, proto: string, blocks: readonly Block[]): Promise<void> {
  await mkdir(folder, { recursive: true });
  await cp(proto, join(folder, 'proto'), { recursive: true });
  for (const { file, text } of blocks) {
    if (file === undefined) continue;
    await mkdir(dirname(join(folder, file)), { recursive: true });
    await writeFile(join(folder, file), text);
  }
}

/** The commands of a language, one text for each block. */
export const commandsOf = (blocks: readonly Block[]): string =>
  blocks
    .filter(({ language }) => language === 'sh')
    .map(({ text }) => text)
    .join('');

const COMMAND_TIMEOUT_MS = 600_000;

/** Runs commands in a folder, the first that fails ends them. Gives what they wrote to standard output. */
export function run(folder: string, commands: string, env: NodeJS.ProcessEnv = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn('bash', ['-euo', 'pipefail', '-c', commands], {
      cwd: folder,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: COMMAND_TIMEOUT_MS,
      killSignal: 'SIGKILL',
    });
    let [out, all] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text;
      all += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => (all += text));
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (code === 0) resolve(out);
      else reject(new Error(`${commands}\nended with ${code ?? signal}:\n${all}`));
    });
  });
}
