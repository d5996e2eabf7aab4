/**
 * Work in batches: how many runs a second are created, and claimed and completed by remote workers.
 *
 * Baton's workers are in another process and speak gRPC; the peers are libraries that have the database to themselves.
 * Each system does the same number of no-op jobs in batches of the same size, one queue or stage, from empty to empty.
 */
import { inTurns, valueOf, type Bench, type Context, type Turn } from './support/bench.js';
import { execute } from './support/cluster.js';
import { System, type SystemOptions } from './support/system.js';

const CREATE = 'create';
const WORK = 'claim + complete';
/** How much of the work is done before, so that code is compiled and connections are open. */
const WARM_UP = 0.1;

/** BullMQ does job by job: a fifth of the work takes long enough to tell its rate. */
const BULLMQ_SHARE = 0.2;

function turn(context: Context, name: string, options: SystemOptions, share = 1): Turn {
  const { option } = context;
  return async () => {
    const system = await System.start(context, options);
    try {
      const load = { batch: option('batch'), inFlight: option('in-flight') };
      const total = Math.ceil(option('total') * share);
      const warmUp = { ...load, total: Math.ceil(total * WARM_UP) };
      await system.do('createBatches', warmUp);
      await system.do('workBatches', warmUp);
      const created = await system.measure('createBatches', { ...load, total });
      await system.settle();
      const worked = await system.measure('workBatches', { ...load, total });
      if (name === 'Baton') await verify(system.databaseUrl, total + warmUp.total);
      return { [`${name}: ${CREATE}`]: created, [`${name}: ${WORK}`]: worked };
    } finally {
      await system.stop();
    }
  };
}

/** What the clients were told is in the database. */
async function verify(databaseUrl: string, expected: number): Promise<void> {
  const [row] = await execute<{ done: number }>(
    databaseUrl,
    `select count(*)::int as done from baton.runs where state = 'SUCCEEDED'`,
  );
  if (row?.done !== expected) throw new Error(`${row?.done} runs are done, not ${expected}`);
}

export const bench: Bench = {
  options: {
    total: { full: 100_000, smoke: 2000 },
    batch: { full: 500, smoke: 500 },
    'in-flight': { full: 4, smoke: 4 },
  },
  async run(context) {
    const rows = await inTurns(context, {
      Baton: turn(context, 'Baton', { client: 'baton', server: 'baton_server' }),
      'bare SQL': turn(context, 'bare SQL', { client: 'bare_sql' }),
      'graphile-worker': turn(context, 'graphile-worker', { client: 'graphile_worker' }),
      'pg-boss': turn(context, 'pg-boss', { client: 'pg_boss' }),
      BullMQ: turn(context, 'BullMQ', { client: 'bullmq' }, BULLMQ_SHARE),
    });
    const rate = (system: string, what: string): number => valueOf(rows, `${system}: ${what}`, 'perSecond');
    const peers = ['graphile-worker', 'pg-boss', 'BullMQ'];
    const ratio = (system: string, what: string): number => rate('Baton', what) / rate(system, what);
    const bestCreate = Math.max(...peers.map((peer) => rate(peer, CREATE)));
    return {
      rows,
      ratios: Object.fromEntries(
        [...peers, 'bare SQL'].flatMap((system) =>
          [CREATE, WORK].map((what) => [`${what}: Baton / ${system}`, ratio(system, what)]),
        ),
      ),
      goals: [
        {
          text: 'claim + complete: Baton / graphile-worker',
          value: ratio('graphile-worker', WORK),
          atLeast: 1,
        },
        { text: 'create: Baton / best peer', value: rate('Baton', CREATE) / bestCreate, atLeast: 1.2 },
        { text: 'create: Baton / bare SQL', value: ratio('bare SQL', CREATE), atLeast: 0.6 },
        { text: 'claim + complete: Baton / bare SQL', value: ratio('bare SQL', WORK), atLeast: 0.6 },
      ],
      notes: [
        'Jobs that do nothing. BullMQ runs on its PostgreSQL backend, with a concurrency of 100; graphile-worker with a local queue and batched completion.',
      ],
    };
  },
};
