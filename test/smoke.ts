/**
 * The server once from its start to its stop, as a user has it: `node dist/test/smoke.js`. CI runs it on each line of Node
 * that is supported; on one of them the tests say the rest.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { JobService, WatchKind, type WatchRunsResponse } from '../gen/baton/v1/job_service_pb.js';
import { EventType } from '../gen/baton/v1/run_event_pb.js';
import { ANY_PORT, ServerProcess, temporaryDir } from './support/process.js';
import { within } from './support/wait.js';

interface Answer {
  readonly run: { readonly id: string; readonly status: string };
  readonly claims: readonly { readonly leaseToken: string }[];
}

const dir = await temporaryDir();
const server = new ServerProcess(['serve', ...ANY_PORT], { cwd: dir.path });
const leave = new AbortController();
try {
  await server.ready();
  const call = async (method: string, body: object): Promise<Answer> => {
    const { status, json } = await server.call(method, body);
    assert.equal(status, 200, JSON.stringify(json));
    return json as unknown as Answer;
  };

  // Over gRPC, with everything else over HTTP.
  const jobs = createClient(JobService, createGrpcTransport({ baseUrl: `http://${server.grpcAddress}` }));
  const watch = jobs.watchRuns({}, { signal: leave.signal })[Symbol.asyncIterator]();
  const next = async (what: string): Promise<WatchRunsResponse> => {
    const item = await within(watch.next(), what);
    assert.ok(item.done !== true, `the stream has ended; waited for ${what}`);
    return item.value;
  };
  assert.equal((await next('the stream to open')).kind, WatchKind.OPENED);

  const { run } = await call('CreateRun', { repository: 'smoke', input: { n: 1 } });
  for (const [stage, status] of [
    ['initialize', 'initialized'],
    ['run', 'success'],
  ] as const) {
    const { claims } = await call('ClaimNext', { stage, workerId: 'w', wait: '20s' });
    assert.equal(claims.length, 1);
    const update = { runId: run.id, leaseToken: claims[0]?.leaseToken, status, output: { stage } };
    assert.equal((await call('UpdateStatus', update)).run.status, status);
  }
  const seen: EventType[] = [];
  while (seen.at(-1) !== EventType.SUCCEEDED) {
    const message = await next('the run to succeed');
    seen.push(...message.events.map(({ type }) => type));
  }
  const { CREATED, CLAIMED, STAGE_COMPLETED, SUCCEEDED } = EventType;
  assert.deepEqual(seen, [CREATED, CLAIMED, STAGE_COMPLETED, CLAIMED, SUCCEEDED]);
  leave.abort();

  assert.equal(await server.end('SIGTERM'), 0, server.stderr);
  assert.ok(!existsSync(join(dir.path, '.baton', 'postgres', 'postmaster.pid')), 'PostgreSQL has stopped');
  console.log(`Node ${process.version}: a server started, a run went through its stages, the server stopped`);
} finally {
  leave.abort();
  if (server.child.exitCode === null) await server.end();
  await dir.remove();
}
