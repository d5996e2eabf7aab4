/** A real server in a process of its own, with pipelines and runs in every state that the inputs can name. */
import { createHash } from 'node:crypto';
import { createClient, Code, ConnectError, type Client } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import { ANY_PORT, ServerProcess } from '../support/process.js';
import { within } from '../support/wait.js';
import { definition } from './plausible.js';
import type { Addresses } from './send.js';
import { FENCE, type Vocabulary } from './vocabulary.js';

/** What a server may have that runs in a small container. */
const HEAP_MIB = 512;
const ROUND_TIMEOUT_MS = 30_000;
const CREATED = 30;
const CLAIMED = 12;
/** Each time in a new pipeline, since what an input did to the last one stays. */
const TRIES = 5;
/** What a good call is told when an input changed, canceled or retried its run first: the inputs name runs by label. */
const OVERTAKEN: readonly Code[] = [Code.Unavailable, Code.FailedPrecondition];

export class World {
  readonly jobs: Client<typeof JobService>;
  readonly pipelines: Client<typeof PipelineService>;
  #rounds = 0;

  private constructor(readonly server: ServerProcess) {
    const transport = createGrpcTransport({ baseUrl: `http://${server.grpcAddress}` });
    this.jobs = createClient(JobService, transport);
    this.pipelines = createClient(PipelineService, transport);
  }

  static async start(databaseUrl: string): Promise<World> {
    const keep = ['--log-retention', '0', '--run-retention', '0'];
    const args = ['serve', ...ANY_PORT, '--database-url', databaseUrl, '--log-level', 'warn', ...keep];
    const env = { NODE_OPTIONS: `--max-old-space-size=${HEAP_MIB}` };
    return new World(await new ServerProcess(args, { env }).ready());
  }

  get addresses(): Addresses {
    const port = (address: string): number => Number(address.split(':').at(-1));
    return { grpc: port(this.server.grpcAddress), http: port(this.server.httpUrl) };
  }

  /** Makes runs anew, in a pipeline that no input has touched, since inputs use up what they name. */
  refresh(): Promise<Vocabulary> {
    return within(this.#refresh(), 'runs for the inputs', ROUND_TIMEOUT_MS);
  }

  async #refresh(): Promise<Vocabulary> {
    for (let left = TRIES - 1; ; left -= 1) {
      // A number would be hit by a changed digit of the one before, and its runs be claimed or paused.
      const pipeline = `fuzz_${createHash('sha256').update(`${this.#rounds}`).digest('hex').slice(0, 8)}`;
      this.#rounds += 1;
      try {
        const made = await this.#makeRuns(pipeline);
        if (made !== undefined) return made;
        if (left === 0) throw new Error(`there was nothing to claim, ${TRIES} times`);
      } catch (error) {
        if (left === 0 || !OVERTAKEN.includes(ConnectError.from(error).code)) throw error;
      }
    }
  }

  /** @returns nothing if inputs left none of the new runs to be claimed */
  async #makeRuns(pipeline: string): Promise<Vocabulary | undefined> {
    const { jobs, pipelines } = this;
    await pipelines.putPipeline({ pipeline: definition(pipeline) });
    const run = { pipeline, repository: 'fuzz', labels: { [FENCE.key]: FENCE.value }, input: { n: 1 } };
    const { runs } = await jobs.batchCreateRuns({ requests: Array.from({ length: CREATED }, () => run) });
    const { claims } = await jobs.claimNext({ pipeline, stage: 'build', workerId: 'fuzz', maxRuns: CLAIMED });
    const held = claims.map((claim) => ({ runId: claim.run?.id ?? '', leaseToken: claim.leaseToken }));
    const heldIds = new Set(held.map(({ runId }) => runId));
    const waiting = runs.map(({ id }) => id).filter((id) => !heldIds.has(id));
    for (const runId of waiting.slice(0, 3)) await jobs.cancelRun({ runId });
    const [done] = held.slice(-1);
    if (done === undefined) return undefined;
    await jobs.updateStatus({ ...done, status: 'built' });
    const filter = { pipelines: [pipeline] };
    const list = await jobs.listRuns({ filter, pageSize: 5 });
    const events = await jobs.listRunEvents({ runId: done.runId, pageSize: 1 });
    return {
      ...{ claims: held.slice(0, -1), runIds: [...waiting, done.runId] },
      resumeTokens: [list.resumeToken],
      pageTokens: [list.nextPageToken, events.nextPageToken],
      ...{ pipelines: [pipeline, 'ci'], stages: ['build', 'ship'] },
      statuses: ['queued', 'building', 'built', 'shipping', 'shipped', 'error', 'canceled'],
    };
  }
}
