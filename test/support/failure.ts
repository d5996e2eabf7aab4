import assert from 'node:assert/strict';
import { ConnectError, type Code } from '@connectrpc/connect';
import { BadRequestSchema, ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.js';

/** The error of a call, with its reason and violated fields. */
export async function failure(
  call: Promise<unknown>,
): Promise<{ code: Code; reason: string; fields: string[]; metadata: Record<string, string>; text: string }> {
  try {
    await call;
  } catch (error) {
    const connectError = ConnectError.from(error);
    const [info] = connectError.findDetails(ErrorInfoSchema);
    assert.ok(info, `no ErrorInfo in ${connectError.message}`);
    assert.equal(info.domain, 'baton.v1');
    const [bad] = connectError.findDetails(BadRequestSchema);
    return {
      code: connectError.code,
      reason: info.reason,
      fields: bad?.fieldViolations.map((violation) => violation.field) ?? [],
      metadata: info.metadata,
      text: connectError.rawMessage,
    };
  }
  assert.fail('the call succeeded');
}
