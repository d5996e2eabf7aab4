/**
 * Single calls: what a durable answer costs over an answer that does nothing.
 *
 * 64 calls are in flight over one connection of grpc-js. The limit is the empty call: the same client, messages and
 * server library, and a handler that only takes the request apart and puts an answer together. The peers are libraries
 * and have no network between; they do one job per call, 64 in flight, in the client's process.
 */
import { inTurns, valueOf, type Bench, type Context, type Turn } from './support/bench.js';
import { System, type SystemOptions } from './support/system.js';
import type { Measures } from './support/stats.js';

/** Operation and name of its row, in the order in which they are done. */
const CALLS = {
  create: 'CreateRun',
  claim: 'ClaimNext',
  complete: 'UpdateStatus',
  completeAndClaim: 'UpdateStatus + claim_next',
};
const EMPTY = 'empty call, as ';

/** No system claims more in a second, so the work does not run out. */
const FILL_PER_SECOND = 8000;
/** Code is compiled and connections are warm after this part of the measured time. */
const WARM_UP = 0.3;

/** Does all operations briefly, then measures each. */
function turn(
  context: Context,
  options: SystemOptions,
  rows: Readonly<Record<string, string>>,
  fillPerSecond: number,
): Turn {
  const { option } = context;
  return async () => {
    const system = await System.start(context, options);
    try {
      const load = { inFlight: option('in-flight'), seconds: option('seconds') };
      const total = Math.ceil(fillPerSecond * load.seconds * 2 * (1 + WARM_UP));
      if (total > 0) await system.do('createBatches', { total, batch: 1000, inFlight: 2 });
      await system.settle();
      for (const operation of Object.keys(rows))
        await system.do(operation, { ...load, seconds: load.seconds * WARM_UP });
      const measured: Record<string, Measures> = {};
      for (const [operation, row] of Object.entries(rows))
        measured[row] = await system.measure(operation, load);
      return measured;
    } finally {
      await system.stop();
    }
  };
}

const prefixed = (prefix: string): Record<string, string> =>
  Object.fromEntries(Object.entries(CALLS).map(([operation, row]) => [operation, `${prefix}${row}`]));

export const bench: Bench = {
  options: { seconds: { full: 5, smoke: 0.6 }, 'in-flight': { full: 64, smoke: 64 } },
  async run(context) {
    const baton: SystemOptions = { client: 'baton', server: 'baton_server' };
    const empty: SystemOptions = { client: 'baton', server: 'empty_server' };
    const rows = await inTurns(context, {
      Baton: turn(context, baton, CALLS, FILL_PER_SECOND),
      'empty call': turn(context, empty, prefixed(EMPTY), 0),
      'pg-boss': turn(
        context,
        { client: 'pg_boss' },
        { create: 'pg-boss: send', claimAndComplete: 'pg-boss: fetch + complete' },
        1000,
      ),
      'graphile-worker': turn(
        context,
        { client: 'graphile_worker' },
        { create: 'graphile-worker: addJob', claimAndComplete: 'graphile-worker: job by job' },
        FILL_PER_SECOND,
      ),
    });
    const rate = (row: string): number => valueOf(rows, row, 'perSecond');
    const ofEmpty = (row: string): number => rate(row) / rate(`${EMPTY}${row}`);
    const ratios = {
      ...Object.fromEntries(Object.values(CALLS).map((row) => [`${row} / empty call`, ofEmpty(row)])),
      'CreateRun / pg-boss send': rate(CALLS.create) / rate('pg-boss: send'),
      'CreateRun / graphile-worker addJob': rate(CALLS.create) / rate('graphile-worker: addJob'),
      'UpdateStatus + claim_next / graphile-worker job by job':
        rate(CALLS.completeAndClaim) / rate('graphile-worker: job by job'),
      'UpdateStatus + claim_next / pg-boss fetch + complete':
        rate(CALLS.completeAndClaim) / rate('pg-boss: fetch + complete'),
    };
    return {
      rows,
      ratios,
      goals: [
        { text: 'CreateRun / empty call', value: ofEmpty(CALLS.create), atLeast: 0.8 },
        {
          text: 'UpdateStatus + claim_next / empty call',
          value: ofEmpty(CALLS.completeAndClaim),
          atLeast: 0.6,
        },
        {
          text: 'UpdateStatus + claim_next / pg-boss, one job at a time',
          value: rate(CALLS.completeAndClaim) / rate('pg-boss: fetch + complete'),
          atLeast: 10,
        },
      ],
      notes: [
        'perSecond counts calls; claimed and completed is one call of Baton, two of pg-boss, two statements of graphile-worker.',
        'Client, server and PostgreSQL share the cores.',
      ],
    };
  },
};
