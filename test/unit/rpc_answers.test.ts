/** Whoever has to hear of an answer that did not get out hears of one that could not be encoded. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import type { JsonObject } from '../../src/run/run.js';
import type { CallContext } from '../../src/service/api.js';
import { sampleRun } from '../support/rpc_fake.js';
import { seenError } from '../support/rpc_errors.js';
import { startServers, until } from '../support/rpc_servers.js';

const DEPTH = 200_000;
const DEEP = JSON.parse(`{"x": ${'['.repeat(DEPTH)}${']'.repeat(DEPTH)}}`) as JsonObject;

test('an answer that cannot be encoded is told as not delivered, over every protocol', async () => {
  let undelivered = 0;
  let input: JsonObject | undefined = DEEP;
  const claim = (_request: unknown, call: CallContext): Promise<never[]> => {
    call.onUndelivered(() => (undelivered += 1));
    const run = sampleRun({ input });
    return Promise.resolve([{ run, leaseToken: 't', leaseExpireTime: new Date() }] as never[]);
  };
  await using servers = await startServers({ jobs: { claimNext: claim } });
  const request = { stage: 'run' };
  const calls = {
    'grpc-js': () => servers.grpcJs.unary(JobService.method.claimNext, request),
    ...Object.fromEntries(
      Object.entries(servers.jobs).map(([name, jobs]) => [name, () => jobs.claimNext(request)]),
    ),
  };
  for (const [protocol, call] of Object.entries(calls)) {
    undelivered = 0;
    input = DEEP;
    assert.equal((await seenError(call())).reason, 'INTERNAL', protocol);
    await until(`${protocol} to tell of it`, () => undelivered === 1);
    input = { x: 1 };
    assert.equal((await call()).claims.length, 1, protocol);
    assert.equal(undelivered, 1, `${protocol}: one that gets out is not`);
  }
});
