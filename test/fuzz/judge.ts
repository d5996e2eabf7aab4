/** What is wrong with an answer, whatever the request was. */
import { Code } from '@connectrpc/connect';
import { ERROR_REASONS } from '../../src/base/errors.js';
import { errorIn, type FoundError } from './errors_in_answers.js';
import type { HttpInput, Input } from './input.js';
import type { Answer } from './send.js';

export interface Judgement {
  /** For the table: `OK`, the code of an error, or how the answer ended. */
  readonly outcome: string;
  /** Without values of this input, so that the same fault has the same name each time. */
  readonly problems: readonly string[];
}

const ERROR_DOMAIN = 'baton.v1';
const INTERNAL_RESET = 2;
/** What most clients take, less what is around a message. */
const ANSWER_MAX_BYTES = 4 * 2 ** 20;
/** At most 20 violations, and one that says how many more there are. */
const VIOLATIONS_MAX = 21;
/** Longer errors are of use to nobody, and dear to who has to make them. */
const ERROR_MAX_BYTES = 32 * 1024;
/** HTTP statuses of requests that Node's parsers and grpc-js refuse before they are calls: in text, or with nothing. */
const BEFORE_CALLS = new Set([400, 408, 413, 414, 415, 417, 431, 501, 505]);

export function judge(input: Input, answer: Answer): Judgement {
  const { end, status, resetCode, body } = answer;
  const problems: string[] = [];
  if (end === 'hangs') problems.push('no answer in time');
  if (resetCode === INTERNAL_RESET) problems.push('the stream was reset with INTERNAL_ERROR');
  if (status === 500 || status === 502) problems.push(`HTTP ${status}`);
  if (body.length > ANSWER_MAX_BYTES) problems.push('the answer is larger than 4 MiB');
  if (input.kind === 'socket' || end !== 'complete') {
    const mustAnswer = input.kind === 'http' && input.wellFormed && input.ends;
    if (end === 'closed' && mustAnswer) problems.push('closed without an answer');
    return { outcome: status === undefined ? end : `${end} after ${status}`, problems };
  }
  return judgeComplete(input, answer, problems);
}

function judgeComplete(input: HttpInput, answer: Answer, problems: string[]): Judgement {
  const found = errorIn(input.form, answer);
  if (found === 'ok') return { outcome: 'OK', problems };
  if ('malformed' in found) {
    const isEarly =
      BEFORE_CALLS.has(answer.status ?? 0) || (answer.status ?? 0) < 400 || input.verb === 'HEAD';
    if (input.wellFormed || !isEarly) problems.push(`no error of Baton: ${found.malformed}`);
    return { outcome: `HTTP ${answer.status}`, problems };
  }
  problems.push(...inError(found, input, answer));
  return { outcome: Code[found.code] ?? String(found.code), problems };
}

function inError(error: FoundError, input: HttpInput, { body, trailers }: Answer): string[] {
  const { code, reason, domain, violations, message } = error;
  const problems: string[] = [];
  if (code === Code.Internal || code === Code.Unknown || Code[code] === undefined)
    problems.push(`code ${Code[code] ?? code}`);
  // A path that no service has is refused by grpc-js itself.
  const isNoCall = code === Code.Unimplemented && input.port === 'grpc';
  if (isNoCall) return problems;
  if (reason === undefined) problems.push(`${Code[code]} without ErrorInfo: ${withoutValues(message)}`);
  else if (!ERROR_REASONS.some((known) => known === reason)) problems.push(`unknown reason ${reason}`);
  if (reason !== undefined && domain !== ERROR_DOMAIN) problems.push(`domain ${domain}`);
  if (reason === 'INVALID_ARGUMENT' && input.wellFormed && violations === 0)
    problems.push(`INVALID_ARGUMENT names no field: ${withoutValues(message)}`);
  if (violations > VIOLATIONS_MAX) problems.push('too many violations');
  const bytes = body.length + Object.values(trailers).join('').length;
  if (bytes > ERROR_MAX_BYTES) problems.push('a very long error');
  return problems;
}

/** The same fault has the same text, whatever ids and texts the input had. */
function withoutValues(message: string): string {
  return message
    .replace(/"[^"]*"/g, '"…"')
    .replace(/\d+/g, 'N')
    .slice(0, 120);
}
