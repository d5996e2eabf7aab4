/**
 * A healthy client in a process of its own: reads a run and reports its progress every 20 ms, whatever became of the calls
 * before. A call counts from when it was due, so a stall shows in all that it held up.
 */
import type { MessageInitShape } from '@bufbuild/protobuf';
import { JobService, type UpdateStatusRequestSchema } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import { GrpcJsClient } from '../../test/support/rpc_grpc_client.js';
import { childArgs, serve } from '../support/ipc.js';
import { percentile } from '../support/stats.js';
import { PIPELINE } from './baton_calls.js';

export interface HealthyArgs {
  readonly grpcPort: number;
}

export interface HealthyTimes {
  readonly calls: number;
  readonly failed: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

const PERIOD_MS = 20;
/** A call that takes longer has failed, and counts with this. */
const CALL_TIMEOUT_MS = 60_000;

const { grpcPort } = childArgs() as HealthyArgs;
const client = new GrpcJsClient(`127.0.0.1:${grpcPort}`);
const { createRun, claimNext, getRun, updateStatus } = JobService.method;

await client.unary(PipelineService.method.putPipeline, { pipeline: PIPELINE });
await client.unary(createRun, { pipeline: PIPELINE.name });
const { claims } = await client.unary(claimNext, {
  pipeline: PIPELINE.name,
  stage: 'work',
  workerId: 'healthy',
});
const id = claims[0]?.run?.id ?? '';
const update: MessageInitShape<typeof UpdateStatusRequestSchema> = {
  ...{ runId: id, leaseToken: claims[0]?.leaseToken ?? '', status: 'working' },
};

let times: number[] = [];
let failed = 0;
const open = new Set<Promise<void>>();

function call(work: () => Promise<unknown>, due: number): void {
  const over = work()
    .then(
      () => undefined,
      () => void (failed += 1),
    )
    .then(() => {
      open.delete(over);
      times.push(performance.now() - due);
    });
  open.add(over);
}

let nextDue = performance.now();
const timer = setInterval(() => {
  for (; nextDue <= performance.now(); nextDue += PERIOD_MS) {
    const due = nextDue;
    const options = { deadline: Date.now() + CALL_TIMEOUT_MS };
    call(() => client.unary(getRun, { id }, options), due);
    call(() => client.unary(updateStatus, { ...update, progress: (due % 1000) / 1000 }, options), due);
  }
}, 5);

/** Of the calls since the last question, once those that were due by now are over. */
async function answer(): Promise<HealthyTimes> {
  await Promise.all(open);
  const [counted, failures] = [times, failed];
  times = [];
  failed = 0;
  const sorted = counted.sort((a, b) => a - b);
  const at = (share: number): number => percentile(sorted, share);
  return { calls: sorted.length, failed: failures, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) };
}

serve({}, answer, () => {
  clearInterval(timer);
  client.close();
});
