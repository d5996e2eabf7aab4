import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from '@bufbuild/protobuf';
import type { Queryable } from '../../src/store/pool.js';
import { GrpcJsClient } from './rpc_grpc_client.js';

/** What a gRPC client takes that was not told otherwise. */
export const CLIENT_BYTES = 4 * 1024 * 1024;
/** Where the service says that its answers end. */
export const ANSWER_BYTES = 3 * 1024 * 1024;
export const MIB = 1024 * 1024;

/** A client with the defaults of grpc-js, which counts the bytes of each answer by itself. */
export class CountingClient {
  readonly #client: GrpcJsClient;
  /** The longest answer so far, in bytes as they came. */
  longest = 0;

  constructor(address: string) {
    this.#client = new GrpcJsClient(address);
  }

  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
  ): Promise<MessageShape<O>> {
    const bytes = toBinary(method.input, create(method.input, request));
    const answer = await this.#client.raw(`/${method.parent.typeName}/${method.name}`, bytes);
    this.longest = Math.max(this.longest, answer.byteLength);
    return fromBinary(method.output, answer);
  }

  /** How long the longest answer since the last one was. */
  takeLongest(): number {
    const { longest } = this;
    this.longest = 0;
    return longest;
  }

  close(): void {
    this.#client.close();
  }
}

/**
 * Runs by plain SQL with an input of so many bytes: of one letter, which PostgreSQL stores in a hundredth, or of chance,
 * which it stores as it is. All are copies of one, since that is stored already.
 */
export async function insertLarge(
  db: Queryable,
  runs: number,
  bytes: number,
  content: 'repeated' | 'random',
): Promise<void> {
  const text =
    content === 'repeated'
      ? 'repeat($1::text, $2::int)'
      : `(select left(string_agg(md5($1 || g), ''), $2::int) from generate_series(1, $2::int / 32 + 1) g)`;
  await db.query(`insert into baton.runs (input) values (jsonb_build_object('text', ${text}))`, [
    'x',
    bytes - 20,
  ]);
  await db.query(
    'insert into baton.runs (input) select r.input from baton.runs r cross join generate_series(2, $1::int)',
    [runs],
  );
}

export type RunCounts = Record<'pending' | 'active' | 'failed' | 'attempts' | 'released', number>;

/** How many runs are in each state, the attempts of all, and how often one was released: counted in the database. */
export async function countRuns(db: Queryable): Promise<RunCounts> {
  const [row] = await db.query<RunCounts>(
    `select count(*) filter (where state = 'PENDING')::int as pending, count(*) filter (where state = 'ACTIVE')::int as active,
       count(*) filter (where state = 'FAILED')::int as failed, coalesce(sum(attempt), 0)::int as attempts,
       (select count(*)::int from baton.run_events where type = 'RELEASED') as released
     from baton.runs`,
  );
  return row!;
}
