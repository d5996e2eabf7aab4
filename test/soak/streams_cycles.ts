/**
 * The long version of the open and cancel test: every state over every transport, on a PostgreSQL of its own.
 *
 *     node dist/test/soak/streams_cycles.js [--cycles 10000] [--width 20] [--only blocked,HTTP/1.1]
 *
 * Fails when a stream is left 1 s after a cancel, or a cell leaves the heap more than 5 % larger than its warm-up did:
 * half of its cycles, because compiled code and its feedback go on growing, by 2 MiB, for some thousand cycles.
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startEmbeddedPostgres } from '../../src/store/embedded/embedded-postgres.js';
import { migrate } from '../../src/store/migrate.js';
import { createPool } from '../../src/store/pool.js';
import { silent } from '../support/database.js';
import type { Way } from '../support/streams_clients.js';
import {
  heapBytes,
  insertRuns,
  runCycles,
  startWriter,
  STATES,
  type State,
} from '../support/streams_cycles.js';
import { StreamsRig } from '../support/streams_rig.js';

const GROWTH_MAX = 0.05;
const WAYS: readonly Way[] = ['gRPC by grpc-js', 'Connect over h2', 'Connect over HTTP/1.1'];

const { values } = parseArgs({
  options: {
    cycles: { type: 'string', default: '10000' },
    width: { type: 'string', default: '20' },
    only: { type: 'string', default: '' },
  },
});
const [count, width] = [Number(values.cycles), Number(values.width)];
const only = values.only.split(',').filter((part) => part !== '');

interface Row {
  readonly state: State;
  readonly transport: Way;
  readonly cycles: number;
  readonly seconds: number;
  readonly streamsLeft: number;
  readonly longestMs: number;
  readonly heapBeforeMiB: string;
  readonly heapAfterMiB: string;
  readonly growth: string;
}

async function cell(rig: StreamsRig, state: State, transport: Way): Promise<{ row: Row; grown: number }> {
  await runCycles(rig, transport, state, Math.max(width, count / 2), width);
  const before = await heapBytes();
  const started = performance.now();
  const { cycles, longestMs } = await runCycles(rig, transport, state, count, width);
  const after = await heapBytes();
  const grown = (after - before) / before;
  const row = {
    ...{ state, transport, cycles, seconds: Math.round((performance.now() - started) / 1000) },
    ...{ streamsLeft: rig.hub.streamCount + rig.openCalls, longestMs },
    heapBeforeMiB: (before / 2 ** 20).toFixed(1),
    heapAfterMiB: (after / 2 ** 20).toFixed(1),
    growth: `${(grown * 100).toFixed(1)} %`,
  };
  return { row, grown };
}

const dir = await mkdtemp(join(tmpdir(), 'baton-soak-'));
// PostgreSQL may run as another user, which has to get in.
await chmod(dir, 0o755);
const postgres = await startEmbeddedPostgres({
  ...{ dataDir: join(dir, 'pg'), systemDir: join(dir, 'system'), log: silent, settings: { fsync: 'off' } },
});
try {
  await migrate({ databaseUrl: postgres.url, log: silent });
  const pool = createPool({ databaseUrl: postgres.url, connections: 3, log: silent });
  const rig = await StreamsRig.start(postgres.url);
  // For those that are to be blocked: more than the sockets of an HTTP/1.1 connection take in.
  await insertRuns(pool, 600, 10_000);
  const rows: Row[] = [];
  let failed = false;
  for (const transport of WAYS) {
    for (const state of STATES) {
      if (only.some((part) => !`${transport} ${state}`.includes(part))) continue;
      const writer = state === 'flowing' ? startWriter(pool) : undefined;
      const { row, grown } = await cell(rig, state, transport);
      await writer?.stop();
      rows.push(row);
      failed ||= grown > GROWTH_MAX || row.streamsLeft > 0;
      process.stdout.write(`${JSON.stringify(row)}\n`);
    }
  }
  console.table(rows);
  await rig.stop();
  await pool.close();
  process.exitCode = failed ? 1 : 0;
} finally {
  await postgres.stop();
  await rm(dir, { recursive: true, force: true });
}
