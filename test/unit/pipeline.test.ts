/** The pure rules of src/run: what a status means, who may report what, what a watcher is shown. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { MATCH_ALL, matchesEvent, matchesRun, type RunFilter } from '../../src/run/filter.js';
import { canonicalJson, sameJson } from '../../src/run/json.js';
import { endedBy, RESERVED_ERROR_CODES } from '../../src/run/lease_end.js';
import {
  allowedStatuses,
  STAGE_DEFAULTS,
  statusMeanings,
  waitingStatus,
  type PipelineDefinition,
} from '../../src/run/pipeline.js';
import { EVENT_TYPES, isTerminal, RUN_STATES, TERMINAL_STATES, type RunEvent } from '../../src/run/run.js';
import { sampleEvent, sampleRun } from '../support/rpc_fake.js';
import { fc } from '../support/seed.js';

function pipelineOf(
  stages: readonly (readonly [name: string, processing: string, done: string])[],
): PipelineDefinition {
  return {
    name: 'p',
    description: '',
    initialStatus: 'new',
    errorStatus: 'error',
    canceledStatus: 'canceled',
    schedules: [],
    stages: stages.map(([name, processingStatus, doneStatus]) => ({
      name,
      processingStatus,
      doneStatus,
      ...STAGE_DEFAULTS,
    })),
  };
}

const CI = pipelineOf([
  ['initialize', 'initializing', 'initialized'],
  ['run', 'running', 'success'],
]);

/** Pipelines of 1 to 12 stages with distinct names, as PutPipeline lets them through. */
const anyPipeline = fc
  .uniqueArray(fc.stringMatching(/^[a-z][a-z0-9]{0,5}$/), { minLength: 1, maxLength: 12 })
  .map((names) => pipelineOf(names.map((name) => [name, `${name}-in`, `${name}-out`])));

void describe('pipelines', () => {
  void test('the statuses of ci mean what the contract says', () => {
    assert.deepEqual(
      statusMeanings(CI).map(({ status, stage, state }) => [status, stage, state]),
      [
        ['new', 'initialize', 'PENDING'],
        ['initializing', 'initialize', 'ACTIVE'],
        ['initialized', 'run', 'PENDING'],
        ['running', 'run', 'ACTIVE'],
        ['success', '', 'SUCCEEDED'],
        ['error', '', 'FAILED'],
        ['canceled', '', 'CANCELED'],
      ],
    );
  });

  void test('every pipeline has one meaning for each status, and a stage exactly where work is open', () => {
    fc.assert(
      fc.property(anyPipeline, (pipeline) => {
        const meanings = statusMeanings(pipeline);
        assert.equal(meanings.length, 2 * pipeline.stages.length + 3);
        assert.equal(new Set(meanings.map(({ status }) => status)).size, meanings.length);
        for (const { stage, state } of meanings) assert.equal(stage === '', isTerminal(state));
        for (const state of TERMINAL_STATES)
          assert.equal(meanings.filter((row) => row.state === state).length, 1);
        pipeline.stages.forEach(({ name, processingStatus }, index) => {
          const rows = meanings.filter(({ stage }) => stage === name);
          assert.deepEqual(rows, [
            { status: waitingStatus(pipeline, index), stage: name, state: 'PENDING' },
            { status: processingStatus, stage: name, state: 'ACTIVE' },
          ]);
        });
      }),
    );
  });

  void test('what a worker may report is known to the pipeline, and leads to the next stage or to an end', () => {
    fc.assert(
      fc.property(anyPipeline, (pipeline) => {
        const meanings = new Map(statusMeanings(pipeline).map((row) => [row.status, row]));
        pipeline.stages.forEach((stage, index) => {
          const allowed = allowedStatuses(pipeline, stage.name);
          assert.equal(new Set(allowed).size, 5);
          const reached = allowed.map((status) => meanings.get(status));
          const next = pipeline.stages[index + 1];
          assert.deepEqual(
            reached.map((row) => [row?.stage, row?.state]),
            [
              next === undefined ? ['', 'SUCCEEDED'] : [next.name, 'PENDING'],
              ['', 'FAILED'],
              ['', 'CANCELED'],
              [stage.name, 'PENDING'],
              [stage.name, 'ACTIVE'],
            ],
          );
        });
      }),
    );
    assert.deepEqual(allowedStatuses(CI, 'run'), ['success', 'error', 'canceled', 'initialized', 'running']);
    assert.deepEqual(allowedStatuses(CI, 'nope'), []);
  });
});

/** Few values, so that filters and runs meet often. */
const word = fc.constantFrom('', 'a', 'b');
const labels = fc.dictionary(fc.constantFrom('k', 'l', '__proto__'), fc.constantFrom('v', 'w'));
const few = fc.uniqueArray(fc.constantFrom('a', 'b', 'c'), { maxLength: 2 });
const states = fc.constantFrom(...RUN_STATES);
const anyFilter: fc.Arbitrary<RunFilter> = fc.record({
  runIds: few,
  pipelines: few,
  stages: few,
  statuses: few,
  states: fc.uniqueArray(states, { maxLength: 2 }),
  repository: word,
  labels,
});
const anyRun = fc
  .record({ id: word, pipeline: word, stage: word, status: word, state: states, repository: word, labels })
  .map((fields) => sampleRun(fields));
const anyEvent: fc.Arbitrary<RunEvent> = fc
  .record({
    run: anyRun,
    type: fc.constantFrom(...EVENT_TYPES),
    before: fc.option(fc.record({ stage: word, status: word, state: states }), { nil: undefined }),
  })
  .map(({ run, type, before }) => ({
    revision: 1n,
    type,
    previousStatus: before?.status ?? '',
    previousStage: before?.stage ?? '',
    previousState: before?.state,
    run,
  }));

void describe('filters', () => {
  void test('an event is for whoever is shown the run as it is, or was shown it as it was', () => {
    fc.assert(
      fc.property(anyFilter, anyEvent, (filter, event) => {
        const { run, previousStage: stage, previousStatus: status, previousState: state } = event;
        const was = state === undefined ? undefined : { ...run, stage, status, state };
        assert.equal(
          matchesEvent(filter, event),
          matchesRun(filter, run) || (was !== undefined && matchesRun(filter, was)),
        );
      }),
      { numRuns: 2000 },
    );
  });

  void test('a filter with more in it shows less, and an empty one shows all', () => {
    fc.assert(
      fc.property(anyFilter, anyEvent, (filter, event) => {
        assert.ok(matchesEvent(MATCH_ALL, event));
        if (!matchesEvent(filter, event)) return;
        for (const key of Object.keys(filter) as (keyof RunFilter)[])
          assert.ok(matchesEvent({ ...filter, [key]: MATCH_ALL[key] }, event), `without ${key}`);
      }),
      { numRuns: 2000 },
    );
  });

  void test('a watcher of one status sees runs come and go', () => {
    const filter = { ...MATCH_ALL, statuses: ['running'] };
    const event = sampleEvent(1n, { status: 'success', stage: '', state: 'SUCCEEDED' });
    assert.equal(matchesEvent(filter, { ...event, previousStatus: 'running' }), true);
    assert.equal(matchesEvent(filter, { ...event, previousStatus: 'initialized' }), false);
    assert.equal(matchesRun(filter, event.run), false);
  });
});

void describe('the end of a lease', () => {
  const end = (fields: Partial<RunEvent>, run: Partial<RunEvent['run']>): RunEvent => ({
    ...sampleEvent(1n, { error: undefined, output: undefined, cancelRequested: false, ...run }),
    previousStage: 'initialize',
    previousStatus: 'initializing',
    previousState: 'ACTIVE',
    ...fields,
  });
  const said = (status: string, more: Partial<Parameters<typeof endedBy>[1]> = {}) => ({
    status,
    output: undefined,
    error: undefined,
    ...more,
  });
  const X = { code: 'X', message: 'm' };

  void test('is a repeat where everything that was said is what was done', () => {
    const done = end({ type: 'STAGE_COMPLETED' }, { status: 'initialized', output: { a: 1, b: [2] } });
    assert.equal(endedBy(done, said('initialized', { output: { b: [2], a: 1 } }), CI), true);
    assert.equal(endedBy(done, said('initialized'), CI), true, 'an output that was left out is no other one');
    assert.equal(endedBy(done, said('initialized', { output: { a: 2 } }), CI), false);
    assert.equal(endedBy(done, said('error'), CI), false);
    assert.equal(endedBy(done, said('new'), CI), false);
    assert.equal(endedBy(done, said('initialized', { error: X }), CI), false, 'the first had no error');
  });

  void test('an error is the same with its code and its message only, final or not', () => {
    for (const [type, status] of [
      ['FAILED', 'error'],
      ['RETRY_SCHEDULED', 'new'],
    ] as const) {
      const failed = end({ type }, { status, error: X });
      assert.equal(endedBy(failed, said('error', { error: X }), CI), true);
      assert.equal(endedBy(failed, said('error', { error: { ...X, message: 'n' } }), CI), false);
      assert.equal(endedBy(failed, said('error'), CI), false);
      assert.equal(endedBy(failed, said('new'), CI), false, `${type} is no hand back`);
    }
    const bare = end({ type: 'FAILED' }, { status: 'error', error: { code: '', message: '' } });
    assert.equal(endedBy(bare, said('error'), CI), true);
  });

  void test('a lease that was taken away was not ended by its worker', () => {
    for (const code of RESERVED_ERROR_CODES)
      for (const [type, status] of [
        ['LEASE_EXPIRED', 'new'],
        ['FAILED', 'error'],
        ['CANCELED', 'canceled'],
      ] as const)
        for (const report of ['new', 'error', 'canceled', 'initialized'])
          assert.equal(
            endedBy(end({ type }, { status, error: { code, message: '' } }), said(report), CI),
            false,
          );
  });

  void test('what would have waited again was canceled by request', () => {
    const canceled = end({ type: 'CANCELED' }, { status: 'canceled', cancelRequested: true });
    for (const status of ['new', 'initialized', 'canceled'])
      assert.equal(endedBy(canceled, said(status), CI), true, status);
    for (const status of ['success', 'running', 'error', 'initializing'])
      assert.equal(endedBy(canceled, said(status), CI), false, status);
    const own = end({ type: 'CANCELED' }, { status: 'canceled', cancelRequested: false });
    assert.equal(endedBy(own, said('new'), CI), false);
    const last = { ...canceled, previousStage: 'run', previousStatus: 'running' };
    assert.equal(endedBy(last, said('initialized'), CI), true);
    assert.equal(endedBy(last, said('success'), CI), false, 'success is never turned into a cancel');
  });
});

void describe('JSON', () => {
  const shuffled = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(shuffled);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(
      Object.entries(value)
        .reverse()
        .map(([key, item]) => [key, shuffled(item)]),
    );
  };

  void test('the text of a value does not depend on the order of its keys', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        assert.equal(canonicalJson(shuffled(value)), canonicalJson(value));
        assert.ok(sameJson(shuffled(value), value));
      }),
    );
  });

  void test('the text of a value is that value', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        assert.deepEqual(JSON.parse(canonicalJson(value)), JSON.parse(JSON.stringify(value)));
      }),
    );
  });

  void test('other values have other texts', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.jsonValue(), (a, b) => {
        const same = canonicalJson(a) === canonicalJson(b);
        const equal = (() => {
          try {
            assert.deepStrictEqual(JSON.parse(JSON.stringify(a)), JSON.parse(JSON.stringify(b)));
            return true;
          } catch {
            return false;
          }
        })();
        assert.equal(same, equal);
      }),
    );
  });

  void test('keys that look like numbers, and names of the language, are keys like others', () => {
    const [a, b] = [
      JSON.parse('{"2":1,"10":2,"__proto__":3}'),
      JSON.parse('{"__proto__":3,"10":2,"2":1}'),
    ] as unknown[];
    assert.ok(sameJson(a, b));
    assert.equal(sameJson(JSON.parse('{"__proto__":{"x":1}}'), {}), false);
    assert.equal(sameJson([1, 2], [2, 1]), false);
    assert.equal(sameJson({ a: null }, {}), false);
  });
});
