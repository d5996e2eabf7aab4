import { fromBinary, fromJsonString, type DescMethod } from '@bufbuild/protobuf';
import { CancelRunsRequestSchema, RetryRunsRequestSchema } from '../../gen/baton/v1/job_service_pb.js';
import type { RunFilter } from '../../gen/baton/v1/filter_pb.js';
import { Prng } from '../support/log_prng.js';
import { eventsInput } from './events_query.js';
import { BULK, METHODS, type Input } from './input.js';
import { MessageGenerator } from './messages.js';
import { mutateBytes, mutateText } from './mutate.js';
import { encoded, TRANSPORTS, type Encoded } from './requests.js';
import { socketInput } from './sockets.js';
import { twisted } from './twists.js';
import type { Vocabulary } from './vocabulary.js';

/** Bytes of a message, roughly, and how often it may be so large. */
const SIZES = [...Array<number>(40).fill(3000), ...Array<number>(6).fill(60_000), 1_000_000] as const;
/** How often a value is hostile: many inputs have one fault, some hundreds. */
const SPICES = [0, 0.02, 0.05, 0.2, 0.6] as const;

/**
 * The input with this number. It depends on nothing but the seed, the number and the vocabulary, so that each can be had
 * again alone.
 */
export function inputAt(seed: number, number: number, vocabulary: Vocabulary): Input {
  const prng = new Prng(Math.imul(seed + 1, 0x9e37_79b1) ^ Math.imul(number + 1, 0x85eb_ca6b));
  const layer = prng.next();
  if (layer < 0.06) return socketInput(prng);
  if (layer < 0.1) return eventsInput(prng, vocabulary);
  const method = prng.pick(METHODS);
  const message = generate(prng, method, vocabulary);
  const send = prng.pick(TRANSPORTS);
  if (layer < 0.35) {
    const input = send(prng, method, mutated(prng, method, message, vocabulary));
    return { ...input, faults: ['mutated'] };
  }
  const input = send(prng, method, message);
  return layer < 0.55 ? twisted(prng, input) : input;
}

function generate(prng: Prng, method: DescMethod, vocabulary: Vocabulary): Encoded {
  const budget = { left: prng.pick(SIZES) };
  const isBulk = BULK.has(method.name);
  const generator = new MessageGenerator(prng, vocabulary, budget, prng.pick(SPICES), isBulk);
  return encoded(generator.message(method.input));
}

function mutated(prng: Prng, method: DescMethod, message: Encoded, vocabulary: Vocabulary): Encoded {
  const other = generate(prng, prng.pick(METHODS), vocabulary);
  const result: Encoded = {
    binary: mutateBytes(prng, message.binary, other.binary),
    json: Buffer.from(mutateText(prng, message.json.toString())),
    ...{ binaryOk: false, jsonOk: false },
  };
  return BULK.has(method.name) && !isFenced(method, result) ? message : result;
}

/** Whether a mutated CancelRuns or RetryRuns still leaves alone what is not the fuzzer's; unreadable ones do nothing. */
function isFenced(method: DescMethod, { binary, json }: Encoded): boolean {
  const schema = method.name === 'CancelRuns' ? CancelRunsRequestSchema : RetryRunsRequestSchema;
  const read = (decode: () => { readonly filter?: RunFilter | undefined }): RunFilter | undefined => {
    try {
      return decode().filter;
    } catch {
      return undefined;
    }
  };
  return [read(() => fromBinary(schema, binary)), read(() => fromJsonString(schema, json.toString()))].every(
    (filter) => filter === undefined || isNarrow(filter),
  );
}

/** Each of these narrows a filter to what the fuzzer may have, since nobody else's names can be guessed. */
function isNarrow({ runIds, pipelines, stages, statuses, repository, labels }: RunFilter): boolean {
  const lists = [runIds, pipelines, stages, statuses, Object.keys(labels)];
  return repository !== '' || lists.some((list) => list.length > 0);
}
