/**
 * How long news takes: from CreateRun to the worker that waits for the run, and from the commit of a change to the
 * clients that watch.
 *
 * The load is an open loop: runs are created at a steady rate whatever becomes of them, and the time of each counts
 * from when it was due, so that a stall shows in every run that it held up.
 */
import { inTurns, valueOf, type Bench, type Context, type Goal, type Turn } from './support/bench.js';
import type { Measures } from './support/stats.js';
import { System, type Params, type SystemOptions } from './support/system.js';
import { watchDelivery } from './support/watch_delivery.js';

const WARM_UP_SECONDS = 3;
/** Each system has done so much before it is asked for little: a service runs for months, its code is compiled. */
const FIRST_SECONDS = 8;
const BATON = 'Baton';
const GRAPHILE = 'graphile-worker';
const GRAPHILE_QUEUE = 'graphile-worker, local queue';

/** Name of the load to runs a second. */
function rates({ option }: Context): Record<string, number> {
  return {
    idle: option('idle-rate'),
    [`${option('rate')}/s`]: option('rate'),
    [`${option('high-rate')}/s`]: option('high-rate'),
  };
}

function claimTurn(context: Context, name: string, options: SystemOptions, params: Params = {}): Turn {
  const { option, smoke } = context;
  return async () => {
    const system = await System.start(context, options);
    try {
      const rows: Record<string, Measures> = {};
      const load = { seconds: option('seconds'), workers: option('workers'), ...params };
      const warmUp = smoke ? 0 : WARM_UP_SECONDS;
      if (!smoke)
        await system.do('createToClaim', {
          ...load,
          rate: option('rate'),
          seconds: FIRST_SECONDS,
          warmUp: 0,
        });
      for (const [label, rate] of Object.entries(rates(context)))
        rows[`${name}, ${label}`] = await system.measure('createToClaim', { ...load, rate, warmUp });
      return rows;
    } finally {
      await system.stop();
    }
  };
}

/** With clients that read, and once more with some beside them that do not. */
function watchTurns(context: Context, row: string, rowStalled: string): Record<string, Turn> {
  const { option, flag } = context;
  const load = {
    streams: option('streams'),
    rate: option('watch-rate'),
    seconds: option('seconds'),
    listen: !flag('no-listen'),
  };
  return {
    [row]: watchDelivery(context, { ...load, row, stalled: 0 }),
    [rowStalled]: watchDelivery(context, { ...load, row: rowStalled, stalled: option('stalled') }),
  };
}

export const bench: Bench = {
  options: {
    seconds: { full: 15, smoke: 1 },
    workers: { full: 64, smoke: 8 },
    'idle-rate': { full: 20, smoke: 10 },
    rate: { full: 200, smoke: 50 },
    'high-rate': { full: 1000, smoke: 100 },
    streams: { full: 1000, smoke: 20 },
    'watch-rate': { full: 500, smoke: 50 },
    stalled: { full: 10, smoke: 2 },
  },
  // Only the watch, and with all notifications lost.
  flags: ['watch-only', 'no-listen'],
  async run(context) {
    const { option, flag } = context;
    const streams = option('streams');
    const watch = `watch, ${streams} streams`;
    const watchStalled = `${watch}, ${option('stalled')} more stalled`;
    const claims = !flag('watch-only');
    const rows = await inTurns(context, {
      ...(claims && {
        [BATON]: claimTurn(context, BATON, { client: 'baton', server: 'baton_server' }),
        [GRAPHILE]: claimTurn(context, GRAPHILE, { client: 'graphile_worker' }, { localQueue: 0 }),
        [GRAPHILE_QUEUE]: claimTurn(
          context,
          GRAPHILE_QUEUE,
          { client: 'graphile_worker' },
          { localQueue: 500 },
        ),
      }),
      ...watchTurns(context, watch, watchStalled),
    });
    const [p50, p99] = ['p50Ms', 'p99Ms'].map((measure) => (row: string) => valueOf(rows, row, measure)) as [
      (row: string) => number,
      (row: string) => number,
    ];
    const loads = Object.keys(rates(context));
    const ofGraphile = (label: string, value: (row: string) => number): number =>
      value(`${BATON}, ${label}`) /
      Math.min(value(`${GRAPHILE}, ${label}`), value(`${GRAPHILE_QUEUE}, ${label}`));
    const claimGoals = (): Goal[] => [
      { text: 'CreateRun to claim, idle, p50 in ms', value: p50(`${BATON}, idle`), atMost: 5 },
      { text: 'CreateRun to claim, idle, p99 in ms', value: p99(`${BATON}, idle`), atMost: 15 },
      { text: `CreateRun to claim, ${loads[2]}, p99 in ms`, value: p99(`${BATON}, ${loads[2]}`), atMost: 50 },
      ...loads.flatMap((label) => [
        {
          text: `${label}: p50, Baton / graphile-worker at its best`,
          value: ofGraphile(label, p50),
          atMost: 1,
        },
        {
          text: `${label}: p99, Baton / graphile-worker at its best`,
          value: ofGraphile(label, p99),
          atMost: 1,
        },
      ]),
    ];
    return {
      rows,
      ratios: {
        'watch p99, with stalled streams / without': p99(watchStalled) / p99(watch),
        'watch, memory of the server, with stalled streams / without':
          valueOf(rows, watchStalled, 'serverRssMiB') / valueOf(rows, watch, 'serverRssMiB'),
      },
      goals: [
        ...(claims ? claimGoals() : []),
        { text: `commit to delivery at ${streams} streams, p99 in ms`, value: p99(watch), atMost: 100 },
      ],
      notes: [
        'Claims: from when the run was due to be created until the waiting worker has it, in one client process. perSecond below the rate means that the system did not keep up.',
      ],
    };
  },
};
