import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

/** The browser's program, or undefined where there is none. */
export const chromium = PLACES.find((path) => existsSync(path));

/** A browser without a window that shows one page. */
export interface Browser {
  close(): Promise<void>;
}

/** What a page needs to run in a sandbox of a test machine, and nothing from the network. */
const FLAGS = [
  ...['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run'],
  ...[
    '--disable-extensions',
    '--disable-background-networking',
    '--disable-component-update',
    '--mute-audio',
  ],
];

/** @param flags beside those that each page gets */
export async function openBrowser(
  program: string,
  url: string,
  flags: readonly string[] = [],
): Promise<Browser> {
  const home = await mkdtemp(join(tmpdir(), 'baton-browser-'));
  const child = spawn(program, [...FLAGS, ...flags, `--user-data-dir=${home}`, url], {
    stdio: 'ignore',
    // Its helpers are in the same group, and end with it.
    detached: true,
    env: { ...process.env, HOME: home },
  });
  return {
    async close() {
      await stop(child);
      await rm(home, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null) return;
  const exited = once(child, 'exit');
  process.kill(-child.pid, 'SIGKILL');
  await exited;
}
