import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cleanUpLater } from '../support/cleanup.js';
import type { Change, OpenSource } from '../support/delivery.js';
import { closedLoop, pause } from '../support/loops.js';
import type { Made } from '../support/tally.js';
import { wallClockMs } from '../support/wall_clock.js';
import { etcdPut, etcdRevision } from '../support/wire.js';
import { freePorts } from '../../test/support/free_ports.js';
import { GrpcJsClient } from '../../test/support/rpc_grpc_client.js';

/** Debian's package etcd-server. */
const ETCD = '/usr/bin/etcd';
const PUT = '/etcdserverpb.KV/Put';
const START_TIMEOUT_MS = 15_000;
/** etcd makes one change per put; more at once than this only time out. */
const PUTS_IN_FLIGHT = 256;
/** What a put's event holds beside its value. */
const EVENT_OVERHEAD_BYTES = 25;

export const etcdInstalled = existsSync(ETCD);

/**
 * What all threads of a process have used. Counted in nanoseconds, where `/proc/PID/stat` counts in ticks of
 * 10 ms, of which a short burst may take none.
 */
async function cpuMicrosOf(pid: number): Promise<number> {
  const threads = await readdir(`/proc/${pid}/task`);
  const stats = await Promise.all(
    threads.map((thread) => readFile(`/proc/${pid}/task/${thread}/schedstat`, 'utf8')),
  );
  return stats.reduce((sum, stat) => sum + Number(stat.split(' ')[0]) / 1000, 0);
}

/** etcd with its defaults, durable as the others, in a temporary folder. */
export const etcdSource: OpenSource = async () => {
  const dir = await mkdtemp(join(tmpdir(), 'baton-bench-etcd-'));
  const [port = 0, peerPort = 0] = await freePorts(2);
  const [url, peerUrl] = [`http://127.0.0.1:${port}`, `http://127.0.0.1:${peerPort}`];
  const server = spawn(
    ETCD,
    [
      ...['--data-dir', dir, '--listen-client-urls', url, '--advertise-client-urls', url],
      ...['--listen-peer-urls', peerUrl, '--initial-advertise-peer-urls', peerUrl],
      ...['--initial-cluster', `default=${peerUrl}`, '--log-level', 'error', '--logger', 'zap'],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let said = '';
  server.stderr.setEncoding('utf8').on('data', (text: string) => (said = `${said}${text}`.slice(-2000)));
  const exited = new Promise<void>((resolve) => server.once('exit', () => resolve()));
  const stop = cleanUpLater(async () => {
    server.kill('SIGTERM');
    await exited;
    await rm(dir, { recursive: true, force: true });
  });
  const client = new GrpcJsClient(`127.0.0.1:${port}`);
  const ready = (): Promise<boolean> =>
    client.raw(PUT, etcdPut(Buffer.alloc(0))).then(
      () => true,
      () => false,
    );
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (!(await ready())) {
    if (performance.now() > deadline) throw new Error(`etcd did not start: ${said}`);
    await pause(50);
  }

  /** Put k is due at k / rate and waits for one of those before where too many are under way. */
  const putAll = async (puts: number, rate: number, bytesPerEvent: number): Promise<Change> => {
    const value = Buffer.alloc(Math.max(0, Math.round(bytesPerEvent) - EVENT_OVERHEAD_BYTES), 'x');
    const fromMs = wallClockMs();
    const made: Made[] = [];
    let begun = 0;
    await closedLoop({ inFlight: PUTS_IN_FLIGHT, seconds: Infinity }, async () => {
      if (begun >= puts) return false;
      const dueMs = fromMs + (begun * 1000) / rate;
      begun += 1;
      while (wallClockMs() < dueMs) await pause(1);
      const atMs = wallClockMs();
      made.push({ revision: etcdRevision(await client.raw(PUT, etcdPut(value))), atMs });
      return true;
    });
    return { made, fromMs };
  };

  return {
    protocol: 'etcd',
    port,
    steady: (rate, seconds, { bytesPerEvent }) => putAll(rate * seconds, rate, bytesPerEvent),
    burst: (changes, { bytesPerEvent }) => putAll(changes, Infinity, bytesPerEvent),
    async use() {
      const status = await readFile(`/proc/${server.pid}/status`, 'utf8');
      const rssKiB = Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]);
      return { cpuMicros: await cpuMicrosOf(server.pid ?? 0), rssBytes: rssKiB * 1024 };
    },
    stop() {
      client.close();
      return stop();
    },
  };
};
