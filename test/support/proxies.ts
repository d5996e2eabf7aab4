import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { waitFor, within } from './wait.js';

const PAGE = fileURLToPath(new URL('../../../docs/behind_a_proxy.md', import.meta.url));

/** The name that the page is written for. */
export const NAME = 'baton.example.com';

const PROGRAMS = { nginx: '/usr/sbin/nginx', haproxy: '/usr/sbin/haproxy' } as const;
export type ProxyName = keyof typeof PROGRAMS;

/** What the machine lacks for these tests; undefined when nothing. */
export function lacking(proxy: ProxyName): string | undefined {
  const missing = [PROGRAMS[proxy], '/usr/bin/openssl'].filter((path) => !existsSync(path));
  return missing.length === 0 ? undefined : `no ${missing.join(', no ')} on this machine`;
}

/** The blocks of the page in this language, in their order. */
export async function configurations(language: string): Promise<string[]> {
  const page = await readFile(PAGE, 'utf8');
  return [...page.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm'))].map(
    ([, text = '']) => text,
  );
}

/** Puts other texts in place of those on the page, each of which has to be there. */
export function adapt(text: string, changes: Readonly<Record<string, string>>): string {
  for (const [from, to] of Object.entries(changes)) {
    if (!text.includes(from)) throw new Error(`the page does not say ${JSON.stringify(from)}`);
    text = text.replaceAll(from, to);
  }
  return text;
}

export interface Certificate {
  readonly key: string;
  readonly crt: string;
  /** Both in one file. */
  readonly pem: string;
  /** The certificate, for clients to trust. */
  readonly ca: Buffer;
}

/** A certificate for `NAME` that nobody else trusts. */
export async function makeCertificate(dir: string): Promise<Certificate> {
  const [key, crt, pem] = ['baton.key', 'baton.crt', 'baton.pem'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  await promisify(execFile)('/usr/bin/openssl', [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
    ...['-subj', `/CN=${NAME}`, '-addext', `subjectAltName=DNS:${NAME}`, '-keyout', key, '-out', crt],
  ]);
  await writeFile(pem, (await readFile(crt, 'utf8')) + (await readFile(key, 'utf8')));
  return { key, crt, pem, ca: await readFile(crt) };
}

/** A proxy that runs as a child of this process, in a folder of its own. */
export class Proxy {
  readonly #exited: Promise<void>;
  output = '';

  private constructor(private readonly child: ChildProcess) {
    for (const stream of [child.stdout, child.stderr])
      stream?.on('data', (chunk: Buffer) => (this.output += chunk.toString()));
    this.#exited = new Promise((resolve) => child.once('close', () => resolve()));
  }

  /** Resolves when it takes connections on all `ports`. */
  static async start(name: ProxyName, dir: string, config: string, ports: readonly number[]): Promise<Proxy> {
    const file = join(dir, `${name}.cfg`);
    await writeFile(file, name === 'nginx' ? nginxFile(dir, config) : config);
    const args = name === 'nginx' ? ['-p', dir, '-e', 'stderr', '-c', file] : ['-f', file];
    const proxy = new Proxy(spawn(PROGRAMS[name], args));
    try {
      for (const port of ports) await waitFor(() => takesConnections(port), `${name} on port ${port}`);
    } catch (error) {
      await proxy.stop();
      throw new Error(`${name} did not start: ${proxy.output}`, { cause: error });
    }
    return proxy;
  }

  async stop(): Promise<void> {
    // nginx ends its workers with it.
    this.child.kill('SIGTERM');
    await within(this.#exited, 'the proxy to end');
  }
}

/** What stands around `http { }` on a machine, for a process in the foreground. */
function nginxFile(dir: string, http: string): string {
  const kinds = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
  const folders = kinds.map((kind) => `${kind}_temp_path ${join(dir, kind)};`);
  return `daemon off; pid ${join(dir, 'nginx.pid')}; worker_processes 1; error_log stderr warn;
    events { worker_connections 256; }
    http { access_log off; ${folders.join(' ')} ${http} }`;
}

function takesConnections(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}
