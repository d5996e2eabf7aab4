/** When schedules come: what an expression may be, and its ticks against the calendar, also where clocks change. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { cronProblem, CronError, isTimeZone, latestTick, nextTick } from '../../src/service/cron.js';
import { fc } from '../support/seed.js';

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** The next ticks after a time, as texts. */
function ticksAfter(cron: string, timeZone: string, after: string, count: number): string[] {
  const ticks: string[] = [];
  for (let time = new Date(after); ticks.length < count;) {
    time = nextTick(cron, timeZone, time);
    ticks.push(time.toISOString().replace(':00.000Z', 'Z'));
  }
  return ticks;
}

void describe('cron expressions', () => {
  void test('what the contract allows comes when the calendar says', () => {
    // 1 March 2026 is a Sunday.
    const days = (cron: string): string[] =>
      ticksAfter(cron, 'UTC', '2026-02-28T23:59:59Z', 4).map((tick) => tick.slice(5, 10));
    const hours = (cron: string): string[] =>
      ticksAfter(cron, 'UTC', '2026-03-01T11:07:30Z', 3).map((tick) => tick.slice(8));
    assert.deepEqual(hours('* * * * *'), ['01T11:08Z', '01T11:09Z', '01T11:10Z']);
    assert.deepEqual(hours('0-58/29 * * * *'), ['01T11:29Z', '01T11:58Z', '01T12:00Z']);
    assert.deepEqual(hours('*/20 * * * *'), ['01T11:20Z', '01T11:40Z', '01T12:00Z']);
    assert.deepEqual(hours('5,7 0,23 * * *'), ['01T23:05Z', '01T23:07Z', '02T00:05Z']);
    assert.deepEqual(hours('31 7 11 * * *'), ['01T11:07:31.000Z', '02T11:07:31.000Z', '03T11:07:31.000Z']);
    assert.deepEqual(hours('*/25 * * * * *'), ['01T11:07:50.000Z', '01T11:08Z', '01T11:08:25.000Z']);
    assert.deepEqual(days('0 0 1-3,L * *'), ['03-01', '03-02', '03-03', '03-31']);
    assert.deepEqual(days('0 0 l 2 *'), ['02-28', '02-29', '02-28', '02-28']);
    assert.deepEqual(days('0 0 * * 0'), ['03-01', '03-08', '03-15', '03-22']);
    assert.deepEqual(days('0 0 * * 7'), ['03-01', '03-08', '03-15', '03-22']);
    assert.deepEqual(days('0 0 * apr-JUN Mon'), ['04-06', '04-13', '04-20', '04-27']);
    assert.deepEqual(days('0 0 * * FRI-7/2'), ['03-01', '03-06', '03-08', '03-13']);
    assert.deepEqual(days('0 0 * * FRI#2'), ['03-13', '04-10', '05-08', '06-12']);
    assert.deepEqual(days('0 0 * * 0#5'), ['03-29', '05-31', '08-30', '11-29']);
    assert.deepEqual(days('0 0 * * FRIL'), ['03-27', '04-24', '05-29', '06-26']);
    assert.deepEqual(days('0 0 13 * FRI'), ['03-06', '03-13', '03-20', '03-27'], 'either day counts');
    assert.deepEqual(
      days('0 0 30 2 MON'),
      ['02-01', '02-08', '02-15', '02-22'],
      'one of the two days is enough',
    );
  });

  void test('anything else is refused, and so is what never comes', () => {
    const list = Array.from({ length: 60 }, (_, value) => value).join(',');
    assert.equal(cronProblem(`${list} 0 * * *`), undefined);
    for (const cron of [
      ...['', ' ', '*', '* * * *', '* * * * * * *', ' * * * * *', '* * * * * ', '*  * * * *', '*\t* * * *'],
      ...[
        '@daily',
        '@hourly',
        '2030-01-01T00:00:00',
        '? * * * *',
        '0 0 15W * *',
        '0 0 LW * *',
        '0 0 L-2 * *',
      ],
      ...['0 0 * * +MON', '0 0 * * MON#6', '0 0 * * MON#L', '0 0 * * L', '0 0 * L *', '0 L * * *'],
      ...['60 * * * *', '60 * * * * *', '* 24 * * *', '* * 0 * *', '* * 32 * *', '* * * 0 *', '* * * 13 *'],
      ...['* * * * 8', '5-1 * * * *', '* * * * FRI-MON', '*/0 * * * *', '5/15 * * * *', '/5 * * * *'],
      ...['*/100 * * * *', '1,,2 * * * *', '1- * * * *', '-1 * * * *', '1.5 * * * *', '٣ * * * *'],
      ...['* * * JANUARY *', '* * * * MONDAY', '* * * MON *', 'x * * * *', '0x1 * * * *'],
    ])
      assert.match(cronProblem(cron) ?? 'is accepted', /^must be a cron expression/, JSON.stringify(cron));
    for (const cron of ['0 0 30 2 *', '* * * 30,31 2 *', '0 0 31 2,4,6,9,11 *'])
      assert.equal(cronProblem(cron), 'never comes: there is no such day', cron);
  });

  void test('time zones are those of the IANA, by name', () => {
    for (const name of [
      'UTC',
      'Europe/Berlin',
      'america/new_york',
      'Etc/GMT+5',
      'America/Port-au-Prince',
      'CET',
    ])
      assert.ok(isTimeZone(name), name);
    for (const name of [
      '',
      ' ',
      'UTC ',
      'local',
      'Mars/Base',
      '+02:00',
      '-08',
      'UTC+1',
      'Europe/',
      'Europe//Berlin',
    ])
      assert.ok(!isTimeZone(name), name);
  });

  void test('what cannot be read any more is an error of its own', () => {
    assert.throws(() => nextTick('* * * * *', 'Mars/Base', new Date()), CronError);
    assert.throws(() => latestTick('* * * * *', 'Mars/Base', new Date()), CronError);
    assert.throws(() => nextTick('nonsense', 'UTC', new Date()), CronError);
    assert.throws(() => nextTick('0 0 30 2 *', 'UTC', new Date(0)), CronError);
  });
});

void describe('changes of clocks', () => {
  const cases: readonly (readonly [
    what: string,
    cron: string,
    zone: string,
    after: string,
    ticks: string[],
  ])[] = [
    // Berlin goes from 02:00 to 03:00 at 01:00Z on 29 March 2026, and back from 03:00 to 02:00 at 01:00Z on 25 October.
    [
      'a fixed time in the skipped hour comes right after it',
      ...(['30 2 * * *', 'Europe/Berlin', '2026-03-28T00:00:00Z'] as const),
      ['2026-03-28T01:30Z', '2026-03-29T01:00Z', '2026-03-30T00:30Z'],
    ],
    [
      'several fixed times in the skipped hour are one tick',
      ...(['0,15,30 2,3 * * *', 'Europe/Berlin', '2026-03-28T23:00:00Z'] as const),
      ['2026-03-29T01:00Z', '2026-03-29T01:15Z', '2026-03-29T01:30Z', '2026-03-30T00:00Z'],
    ],
    [
      'the skipped hour has no ticks of any other schedule',
      ...(['*/30 1-3 * * *', 'Europe/Berlin', '2026-03-28T23:59:00Z'] as const),
      [
        '2026-03-29T00:00Z',
        '2026-03-29T00:30Z',
        '2026-03-29T01:00Z',
        '2026-03-29T01:30Z',
        '2026-03-29T23:00Z',
      ],
    ],
    [
      'a fixed time in the repeated hour comes in the first one only',
      ...(['30 2 * * *', 'Europe/Berlin', '2026-10-24T00:00:00Z'] as const),
      ['2026-10-24T00:30Z', '2026-10-25T00:30Z', '2026-10-26T01:30Z'],
    ],
    [
      'the repeated hour has the ticks of any other schedule twice',
      ...(['*/30 2 * * *', 'Europe/Berlin', '2026-10-24T12:00:00Z'] as const),
      [
        '2026-10-25T00:00Z',
        '2026-10-25T00:30Z',
        '2026-10-25T01:00Z',
        '2026-10-25T01:30Z',
        '2026-10-26T01:00Z',
      ],
    ],
    // New York goes from 02:00 to 03:00 at 07:00Z on 8 March 2026, and back from 02:00 to 01:00 at 06:00Z on 1 November.
    [
      'a fixed time in the skipped hour comes right after it',
      ...(['30 2 * * *', 'America/New_York', '2026-03-07T00:00:00Z'] as const),
      ['2026-03-07T07:30Z', '2026-03-08T07:00Z', '2026-03-09T06:30Z'],
    ],
    [
      'the skipped hour has no ticks of any other schedule',
      ...(['*/30 1-3 * * *', 'America/New_York', '2026-03-08T05:59:00Z'] as const),
      [
        '2026-03-08T06:00Z',
        '2026-03-08T06:30Z',
        '2026-03-08T07:00Z',
        '2026-03-08T07:30Z',
        '2026-03-09T05:00Z',
      ],
    ],
    [
      'a fixed time in the repeated hour comes in the first one only',
      ...(['0 30 1 * * *', 'America/New_York', '2026-10-31T00:00:00Z'] as const),
      ['2026-10-31T05:30Z', '2026-11-01T05:30Z', '2026-11-02T06:30Z'],
    ],
    [
      'the repeated hour has the ticks of any other schedule twice',
      ...(['0 * * * *', 'America/New_York', '2026-11-01T04:30:00Z'] as const),
      ['2026-11-01T05:00Z', '2026-11-01T06:00Z', '2026-11-01T07:00Z'],
    ],
  ];
  for (const [what, cron, zone, after, ticks] of cases) {
    void test(`${zone}: ${what} (${cron})`, () => {
      assert.deepEqual(ticksAfter(cron, zone, after, ticks.length), ticks);
    });
  }

  void test('every tick is the one that the clock on the wall names, and the latest is found as the next is', () => {
    fc.assert(
      fc.property(
        anyDaily,
        anyZone,
        fc.double({ min: 0, max: 1, noNaN: true }),
        (daily, { zone, from }, part) => {
          const start = Date.parse(from);
          const expected = byTheWall(daily, zone, start, start + 2 * DAY_MS);
          const cron = `${daily.minute.text} ${daily.hour.text} * * *`;
          const actual: number[] = [];
          // From one millisecond before, because the next tick is after a time.
          for (let time = start - 1; ;) {
            time = nextTick(cron, zone, new Date(time)).getTime();
            if (time >= start + 2 * DAY_MS) break;
            actual.push(time);
          }
          const show = (ticks: readonly number[]): string[] =>
            ticks.map((tick) => new Date(tick).toISOString());
          assert.deepEqual(show(actual), show(expected), `${cron} in ${zone}`);
          const now = start + DAY_MS + Math.floor(part * DAY_MS);
          const latest = expected.filter((tick) => tick <= now).at(-1);
          if (latest !== undefined)
            assert.equal(latestTick(cron, zone, new Date(now)).getTime(), latest, cron);
        },
      ),
      { numRuns: 30 },
    );
  });
});

/** One field, as a text and as what it means. */
interface Field {
  readonly text: string;
  readonly values: ReadonlySet<number>;
  /** Without `*` and without a step. */
  readonly fixed: boolean;
}

interface Daily {
  readonly minute: Field;
  readonly hour: Field;
}

function anyField(max: number): fc.Arbitrary<Field> {
  const all = Array.from({ length: max + 1 }, (_, value) => value);
  const value = fc.integer({ min: 0, max });
  return fc.oneof(
    fc.constant({ text: '*', values: new Set(all), fixed: false }),
    fc.integer({ min: 5, max }).map((step) => ({
      text: `*/${step}`,
      values: new Set(all.filter((item) => item % step === 0)),
      fixed: false,
    })),
    fc.uniqueArray(value, { minLength: 1, maxLength: 4 }).map((values) => ({
      text: values.join(','),
      values: new Set(values),
      fixed: true,
    })),
    fc.tuple(value, value).map(([a, b]) => {
      const [low, high] = [Math.min(a, b), Math.max(a, b)];
      return { text: `${low}-${high}`, values: new Set(all.slice(low, high + 1)), fixed: true };
    }),
  );
}

const anyDaily = fc.record({ minute: anyField(59), hour: anyField(23) });
/** Days around a change of clocks, of an hour and of half an hour, at night and at noon UTC. */
const anyZone = fc.constantFrom(
  { zone: 'UTC', from: '2026-03-28T00:00:00Z' },
  { zone: 'Europe/Berlin', from: '2026-03-28T00:00:00Z' },
  { zone: 'Europe/Berlin', from: '2026-10-24T00:00:00Z' },
  { zone: 'America/New_York', from: '2026-03-07T00:00:00Z' },
  { zone: 'America/New_York', from: '2026-10-31T00:00:00Z' },
  { zone: 'Australia/Lord_Howe', from: '2026-04-03T12:00:00Z' },
  { zone: 'Australia/Lord_Howe', from: '2026-10-02T12:00:00Z' },
  { zone: 'Asia/Kathmandu', from: '2026-03-28T00:00:00Z' },
);

/** Minutes of the clock on the wall since 1970, at each minute of a span of time. */
function wallMinutes(zone: string, from: number, to: number): number[] {
  const format = new Intl.DateTimeFormat('en-GB', {
    timeZone: zone,
    hourCycle: 'h23',
    ...{ year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric' },
  });
  const minutes: number[] = [];
  for (let time = from; time < to; time += MINUTE_MS) {
    const parts = Object.fromEntries(
      format.formatToParts(time).map(({ type, value }) => [type, Number(value)]),
    );
    const { year = 0, month = 0, day = 0, hour = 0, minute = 0 } = parts;
    minutes.push(Date.UTC(year, month - 1, day, hour, minute) / MINUTE_MS);
  }
  return minutes;
}

const wallCache = new Map<string, number[]>();

/** The rule of the contract, told minute by minute from what a clock in that zone shows. */
function byTheWall({ minute, hour }: Daily, zone: string, from: number, to: number): number[] {
  // A day before, to know which minutes were shown already.
  const start = from - DAY_MS;
  const key = `${zone} ${from}`;
  const wall = wallCache.get(key) ?? wallMinutes(zone, start, to);
  wallCache.set(key, wall);
  const fixed = minute.fixed && hour.fixed;
  const named = (at: number): boolean =>
    minute.values.has(at % 60) && hour.values.has(Math.floor(at / 60) % 24);
  const ticks: number[] = [];
  const shown = new Set<number>();
  wall.forEach((at, index) => {
    const before = wall[index - 1] ?? at - 1;
    let isTick = named(at) && !(fixed && shown.has(at));
    // Minutes that the clock jumped over.
    if (fixed) for (let skipped = before + 1; skipped < at; skipped += 1) isTick ||= named(skipped);
    shown.add(at);
    const time = start + index * MINUTE_MS;
    if (isTick && time >= from) ticks.push(time);
  });
  return ticks;
}
