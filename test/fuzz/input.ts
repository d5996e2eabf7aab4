/** What is sent, as a value: made from a seed and a number, sent by another part, judged by a third. */
import type { DescMethod } from '@bufbuild/protobuf';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';

export type Port = 'grpc' | 'http';

/** Where an answer has its error. `plain` has none of ours. */
export type Form = 'grpc' | 'grpc-web' | 'connect-unary' | 'connect-stream' | 'events' | 'plain';

export interface HttpInput {
  readonly kind: 'http';
  /** What it is, for people and for counting: `ClaimNext`, `connect json HTTP/1.1`, the faults that it has. */
  readonly method: string;
  readonly transport: string;
  readonly faults: readonly string[];
  readonly port: Port;
  readonly version: 1 | 2;
  readonly verb: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;
  readonly body: Buffer;
  /** False for a request whose end never comes. */
  readonly ends: boolean;
  readonly form: Form;
  /** Every decoder takes it: an INVALID_ARGUMENT is about a field, and names it. */
  readonly wellFormed: boolean;
  /** An answer may take its time, since it waits for work. */
  readonly mayWait: boolean;
}

export interface SocketInput {
  readonly kind: 'socket';
  readonly faults: readonly string[];
  readonly port: Port;
  readonly chunks: readonly Buffer[];
  readonly leaving: 'wait' | 'end' | 'reset';
}

export type Input = HttpInput | SocketInput;

export const METHODS: readonly DescMethod[] = [JobService, PipelineService].flatMap(({ methods }) => methods);

/** Methods that change whatever their filter matches. */
export const BULK: ReadonlySet<string> = new Set(['CancelRuns', 'RetryRuns']);
const WAITING: ReadonlySet<string> = new Set(['ClaimNext', 'UpdateStatus', 'WatchRuns']);

export const pathTo = (method: DescMethod): string => `/${method.parent.typeName}/${method.name}`;
export const mayWait = (method: DescMethod): boolean => WAITING.has(method.name);

/** For people: what was sent, cut where it gets long. */
export function describeInput(input: Input): string {
  if (input.kind === 'socket') {
    const bytes = Buffer.concat([...input.chunks]);
    const start = JSON.stringify(bytes.toString('latin1', 0, 300));
    return `${input.port} port, ${input.faults.join(', ')}, then ${input.leaving}: ${bytes.length} bytes, ${start}`;
  }
  const { method, transport, faults, verb, path, headers, body, ends } = input;
  const text = /json/.test(transport) ? body.toString('utf8', 0, 400) : body.toString('hex', 0, 400);
  const url = path.length > 300 ? `${path.slice(0, 300)}… (${path.length})` : path;
  return [
    `${method}, ${transport}${faults.length === 0 ? '' : `, ${faults.join(', ')}`}${ends ? '' : ', without an end'}`,
    `${verb} ${url} ${JSON.stringify(headers).slice(0, 500)}`,
    `${body.length} bytes: ${text}`,
  ].join('\n    ');
}
