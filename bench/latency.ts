/** How long news takes: from the commit of a change to the clients that watch. */
import { inTurns, valueOf, type Bench, type Turn } from './support/bench.js';
import { watchDelivery } from './support/watch_delivery.js';

export const bench: Bench = {
  options: {
    streams: { full: 1000, smoke: 20 },
    'watch-rate': { full: 500, smoke: 50 },
    seconds: { full: 15, smoke: 1 },
    stalled: { full: 10, smoke: 2 },
  },
  flags: ['no-listen'],
  async run(context) {
    const { option, flag } = context;
    const streams = option('streams');
    const load = {
      streams,
      rate: option('watch-rate'),
      seconds: option('seconds'),
      listen: !flag('no-listen'),
    };
    const watch = `watch, ${streams} streams`;
    const watchStalled = `${watch}, ${option('stalled')} more stalled`;
    const turns: Record<string, Turn> = {
      [watch]: watchDelivery(context, { ...load, row: watch, stalled: 0 }),
      [watchStalled]: watchDelivery(context, { ...load, row: watchStalled, stalled: option('stalled') }),
    };
    const rows = await inTurns(context, turns);
    const p99 = valueOf(rows, watch, 'p99Ms');
    return {
      rows,
      ratios: { 'watch p99, with stalled streams / without': valueOf(rows, watchStalled, 'p99Ms') / p99 },
      goals: [{ text: `commit to delivery at ${streams} streams, p99 in ms`, value: p99, atMost: 100 }],
      notes: [],
    };
  },
};
