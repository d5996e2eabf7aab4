import { spawn, type ChildProcess } from 'node:child_process';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { waitFor, within } from './wait.js';

const MAIN = fileURLToPath(new URL('../../src/main.js', import.meta.url));
const START_TIMEOUT_MS = 30_000;
const REPORT_TIMEOUT_MS = 5000;
/** Asked by this signal, a process says what keeps it alive; its standard error is where it is looked for. */
const REPORT_SIGNAL = 'SIGUSR2';
const REPORT = ['--report-on-signal', `--report-signal=${REPORT_SIGNAL}`, '--report-filename=stderr'];

/** A folder that every user may enter, since PostgreSQL may run as another one; removed by `remove`. */
export async function temporaryDir(): Promise<{ path: string; remove: () => Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), 'baton-test-'));
  await chmod(path, 0o755);
  return { path, remove: () => rm(path, { recursive: true, force: true, maxRetries: 5 }) };
}

/** The environment without what would point a server at another database. */
function cleanEnv(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) => name !== 'DATABASE_URL' && !name.startsWith('BATON_') && !name.startsWith('NODE_TEST'),
  );
  return { ...Object.fromEntries(kept), ...env };
}

/** A `baton` command in a process of its own, with what it printed. */
export class BatonProcess {
  readonly child: ChildProcess;
  readonly exited: Promise<number | null>;
  stdout = '';
  stderr = '';

  constructor(args: readonly string[], options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}) {
    this.child = spawn(process.execPath, [...REPORT, MAIN, ...args], {
      cwd: options.cwd,
      env: cleanEnv(options.env ?? {}),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    this.exited = new Promise((resolve) => this.child.once('close', (code) => resolve(code)));
  }

  /** The first match in what it prints; fails with its output when it ends without. */
  async printed(pattern: RegExp): Promise<RegExpExecArray> {
    let over = false;
    void this.exited.then(() => (over = true));
    await waitFor(() => pattern.test(this.stdout) || over, `${pattern} to be printed`, START_TIMEOUT_MS);
    const match = pattern.exec(this.stdout);
    if (match === null)
      throw new Error(`the process ended without ${pattern}:\n${this.stdout}\n${this.stderr}`);
    return match;
  }

  /** What keeps it from ending: the handles that are open in it, one line of JSON each. */
  async whatIsOpen(): Promise<string> {
    const from = this.stderr.length;
    this.child.kill(REPORT_SIGNAL);
    let report = '';
    await waitFor(
      () => {
        const text = this.stderr.slice(from);
        report = /^\{$[\s\S]*^\}$/m.exec(text)?.[0] ?? '';
        return report !== '';
      },
      'the process to say what is open',
      REPORT_TIMEOUT_MS,
    ).catch(() => undefined);
    if (report === '') return 'it did not say what is open';
    const { libuv } = JSON.parse(report) as { libuv: { is_active: boolean; is_referenced?: boolean }[] };
    const alive = libuv.filter((handle) => handle.is_active && handle.is_referenced !== false);
    return alive.map((handle) => JSON.stringify(handle)).join('\n');
  }

  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.child.kill(signal);
    return within(this.exited, `the process to end after ${signal}`, START_TIMEOUT_MS);
  }
}

/** A server process that is ready, with its addresses. */
export class ServerProcess extends BatonProcess {
  httpUrl = '';
  grpcAddress = '';

  async ready(): Promise<this> {
    const match = await this.printed(/gRPC on (\S+), Connect and HTTP on (\S+)/);
    this.grpcAddress = match[1] ?? '';
    this.httpUrl = `http://${match[2] ?? ''}`;
    return this;
  }

  /** A unary call of JobService as curl makes it. */
  async call(method: string, body: unknown): Promise<{ status: number; json: Record<string, unknown> }> {
    const response = await fetch(`${this.httpUrl}/baton.v1.JobService/${method}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
    });
    return { status: response.status, json: (await response.json()) as Record<string, unknown> };
  }
}

export const ANY_PORT = ['--grpc-listen', '127.0.0.1:0', '--http-listen', '127.0.0.1:0'];
