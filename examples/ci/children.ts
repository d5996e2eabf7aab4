import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';

/** A worker that is asked to end finishes or hands back its run first; after this it is killed. */
const STOP_MAX_MS = 15_000;
const NAME_WIDTH = 10;

export interface Command {
  readonly program: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

export interface Child {
  /** Resolves when a line of its output contains the text; rejects when it ends before. */
  printed(text: string): Promise<void>;
  /** How it ended: an exit code or the name of a signal. */
  readonly ended: Promise<number | string>;
  /** Asks it to end, and waits until it has. */
  stop(): Promise<void>;
}

/** Starts a service; each line that it prints is shown after its name. */
export function startChild(name: string, { program, args, env, cwd }: Command): Child {
  const child = spawn(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
    cwd,
    // A process group of its own: Ctrl-C is for the one command, which then stops the services in order.
    detached: true,
  });
  const waiting = new Set<{ text: string; found: () => void }>();
  const seen: string[] = [];
  const onLine = (line: string): void => {
    console.log(`${name.padEnd(NAME_WIDTH)} | ${line}`);
    seen.push(line);
    for (const wait of waiting) if (line.includes(wait.text)) wait.found();
  };
  const showLines = (stream: Readable): unknown => createInterface({ input: stream }).on('line', onLine);
  showLines(child.stdout);
  showLines(child.stderr);
  const ended = new Promise<number | string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(code ?? signal ?? 'unknown'));
  });
  return {
    ended,
    printed: (text) =>
      new Promise((resolve, reject) => {
        if (seen.some((line) => line.includes(text))) resolve();
        waiting.add({ text, found: resolve });
        void ended.then((how) => reject(new Error(`${name} ended (${how}) before it printed "${text}"`)));
      }),
    async stop() {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MAX_MS);
      await ended;
      clearTimeout(timer);
    },
  };
}

/** Runs a program to its end. @returns what it printed on standard output; rejects with all it printed when it fails */
export function run({ program, args, env, cwd }: Command, signal?: AbortSignal): Promise<string> {
  const child = spawn(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
    cwd,
    signal,
  });
  let output = '';
  let errors = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve(output);
      else reject(new Error(`${[program, ...args].join(' ')} failed (${code}):\n${errors}${output}`));
    });
  });
}
