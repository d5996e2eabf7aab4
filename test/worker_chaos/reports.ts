import type { MessageInitShape } from '@bufbuild/protobuf';
import { anyUnpack, durationFromMs, type Any } from '@bufbuild/protobuf/wkt';
import type { ClaimNextRequestSchema, UpdateStatusRequestSchema } from '../../gen/baton/v1/job_service_pb.js';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import type { Prng } from '../support/log_prng.js';
import type { Books, ClaimIntent, Held, Purpose, Send, UpdateIntent } from './books.js';

type UpdateRequest = MessageInitShape<typeof UpdateStatusRequestSchema>;

/** A report that was put into words: the same ones each time it is sent. */
export interface Report {
  readonly intent: UpdateIntent & { readonly sends: Send[] };
  readonly request: UpdateRequest;
}

interface Author {
  readonly name: string;
  readonly books: Books;
  readonly random: Prng;
}

/** What ends with a claim of the next run: that claim, and the array that its calls are written into as well. */
export interface Next {
  readonly intent: ClaimIntent;
  readonly sends: Send[];
}

/** Puts a report into words that nobody else uses, so that the log shows who made which change. */
export function report(author: Author, held: Held, purpose: Purpose, status: string, next?: Next): Report {
  const { books, random, name } = author;
  const marker = books.name(`by ${name}`);
  const { runId, leaseId, place, token } = held;
  const sends = next?.sends ?? [];
  const isNews = status === place.stage.processing;
  const intent = { marker, runId, leaseId, purpose, isNews, next: next?.intent, sends, shown: undefined };
  books.updates.push(intent);
  const fails = status === place.pipeline.error;
  const mayHaveOutput = fails || status === place.stage.done || purpose === 'progress';
  const request: UpdateRequest = {
    runId,
    leaseToken: token,
    status,
    statusMessage: marker,
    // What an old token says must differ from what it said in time, which would be a repetition.
    ...(mayHaveOutput && (purpose === 'stale' || random.chance(0.4)) ? { output: { marker } } : {}),
    ...(random.chance(0.3) ? { progress: random.next() } : {}),
    ...(random.chance(0.2) ? { checkpoint: { marker } } : {}),
    ...(fails ? { error: errorOf(marker, purpose === 'retry', random) } : {}),
  };
  return { intent, request };
}

function errorOf(marker: string, retryable: boolean, random: Prng) {
  const ownDelay = retryable && random.chance(0.5);
  return {
    code: 'CHAOS',
    message: marker,
    retryable,
    ...(ownDelay ? { retryDelay: durationFromMs(random.between(0, 800)) } : {}),
  };
}

/** How an attempt ends: mostly well, and always so while nothing is to be broken. */
export function endReport(author: Author, held: Held, calm: boolean): Report {
  const { pipeline, stage } = held.place;
  const dice = calm ? 1 : author.random.next();
  if (dice < 0.1) return report(author, held, 'retry', pipeline.error);
  if (dice < 0.13) return report(author, held, 'fail', pipeline.error);
  if (dice < 0.15) return report(author, held, 'cancel', pipeline.canceled);
  if (dice < 0.24) return report(author, held, 'release', stage.waiting);
  return report(author, held, 'done', stage.done);
}

export function claimRequest(
  { place, workerId, maxRuns, waitMs, requestId }: ClaimIntent,
  leaseMs: number,
): MessageInitShape<typeof ClaimNextRequestSchema> {
  return {
    pipeline: place.pipeline.name,
    stage: place.stage.name,
    workerId,
    maxRuns,
    requestId,
    wait: durationFromMs(waitMs),
    leaseDuration: durationFromMs(leaseMs),
  };
}

/** The reason in the details of one item of a batch. */
export function reasonOfItem(details: readonly Any[]): string {
  for (const detail of details) {
    const info = anyUnpack(detail, ErrorInfoSchema);
    if (info !== undefined) return info.reason;
  }
  return '';
}
