/** Answers fit what a client takes, whatever the runs hold; and claims whose answer does not are released. */
import assert from 'node:assert/strict';
import type { JsonObject, MessageInitShape } from '@bufbuild/protobuf';
import { after, before, describe, test } from 'node:test';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService, type PutPipelineRequestSchema } from '../../gen/baton/v1/pipeline_service_pb.js';
import { RunState } from '../../gen/baton/v1/run_pb.js';
import {
  ANSWER_BYTES,
  CLIENT_BYTES,
  CountingClient,
  countRuns,
  insertLarge,
  MIB,
} from '../support/answers.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { ANY_PORT, ServerProcess } from '../support/process.js';
import { within } from '../support/wait.js';

const RUNS = 1000;
/** Each step of the large cases takes some seconds on a busy machine. */
const TIMEOUT_MS = 300_000;
const { method } = JobService;

/** Of the text in a payload. */
const textLength = (payload: JsonObject | undefined): number => {
  const text = payload?.['text'];
  return typeof text === 'string' ? text.length : 0;
};

type PutPipelineInput = MessageInitShape<typeof PutPipelineRequestSchema>;

describeOnEveryPostgres('answers with large runs at a heap of 512 MiB', (open) => {
  let database: TestDatabase;
  let server: ServerProcess;
  let client: CountingClient;

  /** Each group has a database and a server of its own. */
  const around = (prepare: () => Promise<void>): void => {
    before(async () => {
      database = await open();
      await prepare();
      const env = { DATABASE_URL: database.url, NODE_OPTIONS: '--max-old-space-size=512' };
      server = await new ServerProcess(['serve', ...ANY_PORT], { env }).ready();
      client = new CountingClient(server.grpcAddress);
    });
    after(async () => {
      client.close();
      assert.equal(await server.end(), 0, server.stderr);
      await database.drop();
    });
  };

  for (const [content, runs] of [
    ['repeated', RUNS],
    ['random', 40],
  ] as const) {
    void describe(`of ${runs} runs of 1 MiB, ${content}`, () => {
      around(() => insertLarge(database.pool, runs, MIB, content));

      void test(
        'ListRuns ends its pages early, and every run is in one',
        { timeout: TIMEOUT_MS },
        async () => {
          const bare = await client.call(method.listRuns, { pageSize: 1000 });
          assert.equal(bare.runs.length, runs);
          assert.ok(bare.runs.every((run) => run.input === undefined && !run.payloadOmitted));
          client.takeLongest();
          const seen = new Set<string>();
          let pageToken = '';
          do {
            const page = await client.call(method.listRuns, {
              pageSize: 1000,
              includePayload: true,
              pageToken,
            });
            for (const run of page.runs) if (run.input !== undefined) seen.add(run.id);
            pageToken = page.nextPageToken;
          } while (pageToken !== '' && seen.size < 9);
          assert.deepEqual(
            [...seen],
            bare.runs.slice(0, seen.size).map(({ id }) => id),
            'each in its order, none left out',
          );
          const longest = client.takeLongest();
          assert.ok(longest > 2 * MIB && longest <= ANSWER_BYTES, `${longest} bytes`);
        },
      );

      void test(
        'ClaimNext gives what fits and leaves the rest, at no attempt',
        { timeout: TIMEOUT_MS },
        async () => {
          const ids = new Set<string>();
          for (let call = 1; call <= 3; call += 1) {
            const request = { stage: 'initialize', workerId: 'w', maxRuns: 1000 };
            const { claims } = await within(client.call(method.claimNext, request), 'claims', TIMEOUT_MS);
            assert.equal(claims.length, 2, 'two runs of 1 MiB and a little fit');
            for (const { run } of claims) {
              assert.ok(textLength(run?.input) > MIB - 64);
              ids.add(run?.id ?? '');
            }
          }
          const first = await database.pool.query<{ id: string }>(
            'select id from baton.runs order by claimable_time, id limit 6',
          );
          assert.deepEqual(
            [...ids],
            first.map(({ id }) => id),
            'in their order, none twice',
          );
          assert.ok(client.takeLongest() <= ANSWER_BYTES);
          assert.deepEqual(await countRuns(database.pool), {
            pending: runs - 6,
            active: 6,
            failed: 0,
            attempts: 6,
            released: 0,
          });
        },
      );

      void test('a crowd of claims gets one run each', { timeout: TIMEOUT_MS }, async () => {
        const request = { stage: 'initialize', workerId: 'w', maxRuns: 1 };
        const answers = await Promise.all(
          Array.from({ length: 30 }, () => client.call(method.claimNext, request)),
        );
        assert.deepEqual(
          answers.map(({ claims }) => claims.length),
          answers.map(() => 1),
        );
        assert.equal((await countRuns(database.pool)).active, 36);
      });

      void test('an update and its claim fit as well', { timeout: TIMEOUT_MS }, async () => {
        const claimNext = { stage: 'initialize', workerId: 'w', maxRuns: 1000 };
        const [first] = (await client.call(method.claimNext, { ...claimNext, maxRuns: 1 })).claims;
        client.takeLongest();
        const answer = await client.call(method.updateStatus, {
          runId: first?.run?.id ?? '',
          leaseToken: first?.leaseToken ?? '',
          status: 'initialized',
          output: { text: 'y'.repeat(MIB - 20) },
          claimNext,
        });
        assert.equal(answer.run?.output, undefined, 'its worker has it');
        assert.equal(answer.claims.length, 2);
        assert.ok(client.takeLongest() <= ANSWER_BYTES);
        const [next] = (await client.call(method.claimNext, { ...claimNext, stage: 'run' })).claims;
        assert.equal(textLength(next?.run?.output), MIB - 20, 'for the next stage');
        assert.equal(next?.run?.attempt, 1);
      });
    });
  }

  void describe('of many small runs', () => {
    around(() => insertLarge(database.pool, RUNS, 500, 'random'));

    void test('of 1,000 small runs all are claimed at once', { timeout: TIMEOUT_MS }, async () => {
      const { claims } = await client.call(method.claimNext, { stage: 'initialize', maxRuns: 1000 });
      assert.equal(claims.length, RUNS);
      assert.ok(claims.every(({ run }) => run?.state === RunState.ACTIVE && run.input !== undefined));
    });

    void test('BatchCreateRuns of 250 × 20 KB is answered without what was sent', async () => {
      const input = { text: 'z'.repeat(20_000) };
      client.takeLongest();
      const requests = Array.from({ length: 250 }, () => ({ input, repository: 'r' }));
      const { runs } = await client.call(method.batchCreateRuns, { requests });
      assert.equal(runs.length, 250);
      assert.ok(runs.every((run) => run.input === undefined && run.repository === 'r'));
      assert.ok(client.takeLongest() < MIB);
      const { run } = await client.call(method.getRun, { id: runs[0]?.id ?? '' });
      assert.deepEqual(run?.input, input);
      const { claims } = await client.call(method.claimNext, { stage: 'initialize', maxRuns: 250 });
      assert.ok(claims.length > 100 && claims.length < 250, `${claims.length} of 20 KB`);
      assert.ok(client.takeLongest() <= ANSWER_BYTES);
      const done = await client.call(method.batchUpdateStatus, {
        requests: claims.map((claim) => ({
          ...{ runId: claim.run?.id ?? '', leaseToken: claim.leaseToken, status: 'initialized' },
          output: input,
        })),
      });
      assert.equal(done.results.filter(({ result }) => result.case === 'run').length, claims.length);
      assert.ok(client.takeLongest() < MIB);
    });

    void test('batches name every run, and leave out what is long of those that do not fit', async () => {
      const labels = Object.fromEntries(
        Array.from({ length: 32 }, (_, n) => [`label-${n}`, 'x'.repeat(250)]),
      );
      const requests = Array.from({ length: 800 }, (_, n) => ({
        ...{ labels, repository: `r${n}`, priority: 9, pipeline: 'ci' },
      }));
      client.takeLongest();
      const { runs } = await client.call(method.batchCreateRuns, { requests });
      const whole = runs.filter((run) => !run.payloadOmitted);
      assert.ok(whole.length > 200 && whole.length < 400, `${whole.length} of 9 KB`);
      assert.deepEqual(whole, runs.slice(0, whole.length));
      assert.ok(whole.every((run, n) => run.repository === `r${n}` && run.labels['label-31'] !== undefined));
      assert.ok(
        runs
          .slice(whole.length)
          .every((run) => run.repository === '' && run.id !== '' && run.status === 'new'),
      );
      const claims = [];
      for (let call = 1; call <= 3; call += 1)
        claims.push(...(await client.call(method.claimNext, { stage: 'initialize', maxRuns: 800 })).claims);
      assert.ok(claims.length > 600, `${claims.length} claims`);
      const done = await client.call(method.batchUpdateStatus, {
        requests: claims.map(({ run, leaseToken }) => ({
          ...{ runId: run?.id ?? '', leaseToken, status: 'initialized' },
        })),
      });
      assert.deepEqual(
        done.results.map(({ result }) => (result.case === 'run' ? result.value.id : result.case)),
        claims.map(({ run }) => run?.id),
      );
      assert.ok(client.takeLongest() < CLIENT_BYTES);
      const seen = new Set<string>();
      let pageToken = '';
      do {
        const page = await client.call(method.listRuns, { pageSize: 1000, pageToken });
        for (const { id, labels: own } of page.runs) if (own['label-1'] !== undefined) seen.add(id);
        ({ nextPageToken: pageToken } = page);
      } while (pageToken !== '');
      assert.equal(seen.size, 800);
      assert.ok(client.takeLongest() <= ANSWER_BYTES);
    });

    void test('ListPipelines ends its pages early, and a pipeline that fits none is refused', async () => {
      const { putPipeline, listPipelines } = PipelineService.method;
      const text = { text: 'x'.repeat(60_000) };
      // Five times as large in protobuf as in JSON.
      const zeros = { list: Array.from({ length: 25_000 }, () => 0) };
      const pipeline = (name: string, inputs: readonly JsonObject[]): PutPipelineInput => ({
        pipeline: {
          ...{ name, initialStatus: 'a', errorStatus: 'x', canceledStatus: 'y' },
          stages: [{ name: 's', processingStatus: 'b', doneStatus: 'c' }],
          schedules: inputs.map((input, n) => ({ name: `s${n}`, cron: '0 3 * * *', input })),
        },
      });
      const texts = Array.from({ length: 24 }, () => text);
      for (const name of ['p1', 'p2', 'p3', 'p4']) await client.call(putPipeline, pipeline(name, texts));
      const many = [...texts, ...Array.from({ length: 8 }, () => zeros)];
      await assert.rejects(client.call(putPipeline, pipeline('p5', many)), /schedules.*3145728 bytes/);
      client.takeLongest();
      const names: string[] = [];
      let pages = 0;
      let pageToken = '';
      do {
        const page = await client.call(listPipelines, { pageSize: 1000, pageToken });
        names.push(...page.pipelines.map(({ name }) => name));
        pages += 1;
        ({ nextPageToken: pageToken } = page);
      } while (pageToken !== '');
      assert.deepEqual(names, ['ci', 'p1', 'p2', 'p3', 'p4']);
      assert.ok(pages === 2, `${pages} pages of 1.4 MB each`);
      assert.ok(client.takeLongest() <= ANSWER_BYTES);
    });
  });
});
