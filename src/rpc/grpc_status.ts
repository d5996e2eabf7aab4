import { toBinary } from '@bufbuild/protobuf';
import { Metadata, type StatusObject } from '@grpc/grpc-js';
import { StatusSchema, type Status } from '../../gen/google/rpc/status_pb.js';
import { fitTrailers } from './errors.js';

export const DETAILS_KEY = 'grpc-status-details-bin';

/** A status as grpc-js sends it: the code and message twice, since clients read either place. */
export function toGrpcStatus(status: Status): StatusObject {
  const fitted = fitTrailers(status);
  const metadata = new Metadata();
  metadata.set(DETAILS_KEY, Buffer.from(toBinary(StatusSchema, fitted)));
  return { code: fitted.code, details: fitted.message, metadata };
}
