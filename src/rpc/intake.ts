import { setImmediate as nextLoop, setTimeout as wait } from 'node:timers/promises';
import { promisify } from 'node:util';
import { brotliDecompress, gunzip, inflate } from 'node:zlib';
import type { DescMessage, Message } from '@bufbuild/protobuf';
import { throwIfAborted } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { Room } from '../base/room.js';
import type { CallSignal } from '../service/api.js';
import { decode, type Format } from './decode/decode.js';
import { malformedRequest, messageTooLarge } from './errors.js';
import { Budget, type Held } from './budget.js';
import { RPC_LIMITS } from './limits.js';

/** The bytes of a request as they came. */
export interface Payload {
  readonly bytes: Buffer;
  /** How they are compressed; `identity` is not at all. */
  readonly encoding: string;
  readonly format: Format;
  /** Their part of the budget, until they have been decoded. */
  readonly held: Held;
}

/** Off the event loop, and no further than the limit. */
const UNPACK: Readonly<
  Record<string, (bytes: Buffer, limit: { maxOutputLength: number }) => Promise<Buffer>>
> = {
  gzip: promisify(gunzip),
  br: promisify(brotliDecompress),
  deflate: promisify(inflate),
};

/** Whether bytes that are compressed like this can be read. */
export function canUnpack(encoding: string): boolean {
  return encoding === 'identity' || Object.hasOwn(UNPACK, encoding);
}

/**
 * Lets requests in, of all listeners of a server, so that large ones do not hurt others:
 *
 * 1. Small requests, nearly all, are decoded at once.
 * 2. Large ones take turns. One turn holds what keeps the process from everything else, in two stretches (decoding; conversion
 *    and the checks of the service); after each the others have as long as it took. A compressed request is unpacked in its
 *    turn.
 * 3. Of huge ones, only as many are on their way through the service as fit into `hugeRequestBytes`. Whoever takes long
 *    there, as it waits for a claim, keeps its room for `roomMs`.
 * 4. All bytes of large requests that come or wait have a budget (`Budget`). Beyond it, a request is told to come again.
 * 5. Of requests for long pages, only as many are with the service as may be answered with `heavyAnswerBytes`: a thousand
 *    runs in JSON are one. Reading them in the database, which takes no time here, is what the others have in between.
 */
export class Intake {
  readonly #turns = new Turns();
  readonly #huge = new Room(RPC_LIMITS.hugeRequestBytes);
  readonly #answers: Room;

  /**
   * @param budget of all requests that are being received or wait
   * @param roomMs how long one keeps others from its room, at most
   */
  constructor(
    readonly budget: Budget = new Budget(),
    private readonly roomMs: number = LIMITS.roomMs,
  ) {
    this.#answers = new Room(RPC_LIMITS.heavyAnswerBytes, roomMs);
  }

  /**
   * Decodes a request and has it answered.
   *
   * @throws BatonError INVALID_ARGUMENT for bytes that are no message of this kind, or one that holds too much
   */
  async serve<T>(
    schema: DescMessage,
    payload: Payload,
    signal: CallSignal,
    answer: (request: Message) => Promise<T>,
  ): Promise<T> {
    const { bytes, encoding, format, held } = payload;
    try {
      if (bytes.length <= RPC_LIMITS.lightRequestBytes) {
        const small = encoding === 'identity' ? bytes : await unpackSmall(payload);
        if (small !== undefined) {
          held.release();
          return await this.#answer(decode(schema, small, format), format, signal, answer);
        }
      }
      return await this.#serveLarge(schema, payload, signal, (request) =>
        this.#answer(request, format, signal, answer),
      );
    } finally {
      held.release();
    }
  }

  #answer<T>(
    request: Message,
    format: Format,
    signal: CallSignal,
    answer: (request: Message) => Promise<T>,
  ): Promise<T> {
    const weight = weightOf(pageBytes(request), format);
    if (weight <= RPC_LIMITS.lightAnswerBytes) return answer(request);
    return this.#answers.use(weight, () => {
      throwIfAborted(signal);
      return answer(request);
    });
  }

  #freeingLate<T>(free: () => void, answer: Promise<T>): Promise<T> {
    const late = setTimeout(free, this.roomMs).unref();
    return answer.finally(() => clearTimeout(late));
  }

  #serveLarge<T>(
    schema: DescMessage,
    payload: Payload,
    signal: CallSignal,
    answer: (request: Message) => Promise<T>,
  ): Promise<T> {
    const { bytes, encoding, format, held } = payload;
    const size = encoding === 'identity' ? bytes.length : LIMITS.messageBytes;
    const weight = weightOf(size, format);
    return this.#huge.use(weight > RPC_LIMITS.hugeBytes ? weight : 0, (free) =>
      this.#turns.take(async (turn) => {
        throwIfAborted(signal);
        const whole = encoding === 'identity' ? bytes : await unpack(payload, LIMITS.messageBytes);
        if (weightOf(whole.length, format) <= RPC_LIMITS.hugeBytes) free();
        const request = turn.stretch(() => decode(schema, whole, format));
        held.release();
        await turn.rest();
        throwIfAborted(signal);
        return { answer: turn.stretch(() => this.#freeingLate(free, answer(request))) };
      }),
    );
  }
}

/** Bytes as protobuf, roughly at most: a number in a list takes two bytes of JSON there, and eleven here. */
function weightOf(bytes: number, format: Format): number {
  return format === 'json' ? RPC_LIMITS.jsonWeight * bytes : bytes;
}

/** Of a page that a request asks for, at most; 0 where it asks for none. */
function pageBytes(request: Message): number {
  const { pageSize, includePayload } = request as Message & { pageSize?: number; includePayload?: boolean };
  if (pageSize === undefined) return 0;
  if (includePayload === true) return LIMITS.answerBytes;
  return (pageSize === 0 ? LIMITS.pageSizeDefault : pageSize) * RPC_LIMITS.answerRunBytes;
}

/** Unpacks what stays small; undefined for what does not. */
async function unpackSmall(payload: Payload): Promise<Buffer | undefined> {
  try {
    return await unpack(payload, RPC_LIMITS.lightRequestBytes);
  } catch (error) {
    if (isTooLarge(error)) return undefined;
    throw error;
  }
}

async function unpack({ bytes, encoding }: Payload, limit: number): Promise<Buffer> {
  try {
    return await unpackBytes(bytes, encoding, limit);
  } catch (error) {
    if (isTooLarge(error)) throw limit < LIMITS.messageBytes ? error : messageTooLarge();
    throw malformedRequest(`the message cannot be decompressed: ${(error as Error).message}`);
  }
}

/** @throws Error where they are broken, compressed in a way that is not known, or become more than `limit` */
export async function unpackBytes(bytes: Buffer, encoding: string, limit: number): Promise<Buffer> {
  if (encoding === 'identity') return bytes;
  const unpackThis = UNPACK[encoding];
  if (unpackThis === undefined) throw new Error(`${encoding} is not known`);
  return unpackThis(bytes, { maxOutputLength: limit });
}

function isTooLarge(error: unknown): boolean {
  return (error as { code?: unknown }).code === 'ERR_BUFFER_TOO_LARGE';
}

/** One after the other, each with rests for everybody else. */
class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** @param work what it answers with is waited for by the caller alone */
  take<T>(work: (turn: Turn) => Promise<{ answer: Promise<T> }>): Promise<T> {
    const turn = new Turn();
    const done = this.#last.then(() => work(turn));
    const rest = (): Promise<void> => turn.rest();
    this.#last = done.then(rest, rest);
    return done.then(({ answer }) => answer);
  }
}

class Turn {
  #owedMs = 0;

  /** What keeps the process busy from its beginning to its end. */
  stretch<T>(work: () => T): T {
    const fromMs = performance.now();
    try {
      return work();
    } finally {
      this.#owedMs += performance.now() - fromMs;
    }
  }

  /** As long as all stretches since the last one took. A call of somebody else takes two looks of the process, or more. */
  async rest(): Promise<void> {
    const owedMs = this.#owedMs;
    this.#owedMs = 0;
    await wait(owedMs);
    // A timer that is late comes before what has arrived; this comes after it.
    await nextLoop();
  }
}
