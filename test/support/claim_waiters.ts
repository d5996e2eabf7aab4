import { fromBinary, toBinary, create } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import type pg from 'pg';
import {
  ClaimNextRequestSchema,
  ClaimNextResponseSchema,
  type Claim,
} from '../../gen/baton/v1/job_service_pb.js';

const CLAIM_NEXT = '/baton.v1.JobService/ClaimNext';
const CALLS_PER_CONNECTION = 1000;
const DEADLINE_MS = 60_000;

const asIs = (bytes: Buffer): Buffer => bytes;

/** Many ClaimNext calls that wait on one server, over as few connections as it takes. */
export class Waiters {
  readonly #clients: Client[] = [];
  readonly #request: Buffer;
  /** Calls that got a run, that got none in time, and that failed. */
  answered = 0;
  empty = 0;
  failed = 0;

  /** What was answered, in that order. */
  readonly claims: Claim[] = [];

  /** @param count calls, each for one run of a stage of `ci`, for up to `waitMs` */
  constructor(grpcAddress: string, count: number, waitMs: number, stage = 'initialize') {
    const message = create(ClaimNextRequestSchema, { stage, wait: durationFromMs(waitMs) });
    this.#request = Buffer.from(toBinary(ClaimNextRequestSchema, message));
    for (let index = 0; index < count / CALLS_PER_CONNECTION; index += 1) {
      // A connection of its own, which grpc-js would share among clients of one address.
      const options = { 'grpc.use_local_subchannel_pool': 1 };
      this.#clients.push(new Client(grpcAddress, credentials.createInsecure(), options));
    }
    for (let index = 0; index < count; index += 1) this.#call(index);
  }

  #call(index: number): void {
    const client = this.#clients[index % this.#clients.length];
    const options = { deadline: Date.now() + DEADLINE_MS };
    client?.makeUnaryRequest(
      CLAIM_NEXT,
      asIs,
      asIs,
      this.#request,
      new Metadata(),
      options,
      (error, answer) => {
        if (error !== null || answer === undefined) {
          this.failed += 1;
          return;
        }
        const { claims } = fromBinary(ClaimNextResponseSchema, answer);
        this.claims.push(...claims);
        if (claims.length > 0) this.answered += 1;
        else this.empty += 1;
      },
    );
  }

  close(): void {
    for (const client of this.#clients) client.close();
  }
}

const COUNT_CLAIMS = `
create sequence public.claim_statements;
create function public.count_claim() returns trigger language plpgsql as $$
begin
  if current_query() like '%waiter%' then perform nextval('public.claim_statements'); end if;
  return null;
end $$;
create trigger count_claims after update on baton.runs for each statement execute function public.count_claim()`;

/** From now on the database counts the statements that claim, also those that find nothing. */
export async function countClaims(sql: pg.Client): Promise<void> {
  await sql.query(COUNT_CLAIMS);
}

export async function claimStatements(sql: pg.Client): Promise<number> {
  const { rows } = await sql.query<{ n: string }>(
    'select case when is_called then last_value else 0 end as n from public.claim_statements',
  );
  return Number(rows[0]?.n);
}
