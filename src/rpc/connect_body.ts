import type { UniversalServerRequest } from '@connectrpc/connect/protocol';
import { BatonError, canceledError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { malformedRequest, messageTooLarge } from './errors.js';
import { endSoon, type Held } from './budget.js';
import { canUnpack, type Intake, type Payload } from './intake.js';
import { RPC_LIMITS } from './limits.js';
import { connectionOf, type NodeRequest, type NodeResponse } from './node_http.js';

/**
 * What a request holds, taken out before connect sees it: connect would unpack, parse and build whatever comes. It is
 * given a request without contents in the same form, and keeps all else that it is for: methods, content types,
 * timeouts, and how each protocol writes answers and errors.
 */
export interface Contents {
  /** Undefined until the request has been read. */
  payload: Payload | undefined;
  /** Why there is none; the handler of the call throws it, as it would any other error. */
  error: BatonError | undefined;
}

/** Where an enveloped protocol says how its messages are compressed. */
const ENCODING_HEADER = {
  unary: 'content-encoding',
  connect: 'connect-content-encoding',
  grpc: 'grpc-encoding',
} as const;
const ENVELOPE_BYTES = 5;
/** A message in which nothing is set. */
const BLANK = { json: Buffer.from('{}'), binary: Buffer.alloc(0) };
const COMPRESSED = 1;

/**
 * The request as connect gets it, and where its contents will be once connect has read it.
 *
 * @param response its end gives back what the request still holds of the budget
 */
export function takeContents(
  universal: UniversalServerRequest,
  request: NodeRequest,
  response: NodeResponse,
  intake: Intake,
): [UniversalServerRequest, Contents] {
  const contents: Contents = { payload: undefined, error: undefined };
  const held = intake.budget.hold();
  response.once('close', () => held.release());
  if (universal.method === 'GET') return [takeQuery(universal, contents, held), contents];
  const header = new Headers(universal.header);
  const reader = readerOf(header, contents, held);
  async function* body(): AsyncGenerator<Uint8Array> {
    try {
      yield reader.read(await readBody(request, held));
    } catch (error) {
      if (!(error instanceof BatonError) || error.reason === 'CANCELED') throw error;
      contents.error = error;
      yield reader.blank;
    }
  }
  return [{ ...universal, header, body: body() }, contents];
}

interface Reader {
  /** Takes the contents out of a body, and gives what connect gets in its place. */
  readonly read: (body: Buffer) => Buffer;
  /** The body of a request without contents. */
  readonly blank: Buffer;
}

/** For the protocol that the headers speak of; those that are no longer true are taken out. */
function readerOf(header: Headers, contents: Contents, held: Held): Reader {
  const type = header.get('content-type') ?? '';
  const [, protocol = 'unary'] = /^application\/(connect|grpc)[-+;]?/.exec(type) ?? [];
  const encodingHeader = ENCODING_HEADER[protocol as keyof typeof ENCODING_HEADER];
  const given = header.get(encodingHeader) ?? 'identity';
  const format = /^application\/(?:[\w-]+\+)?json/.test(type) ? 'json' : 'binary';
  const blank = BLANK[format];
  const setPayload = (bytes: Buffer, encoding: string): void => {
    contents.payload = { bytes, encoding, format, held };
  };
  if (protocol !== 'unary') {
    const read = (body: Buffer): Buffer => readEnvelope(body, given, blank, setPayload);
    return { read, blank: envelope(0, blank) };
  }
  header.delete('content-length');
  // One that nobody knows stays, for connect to refuse it.
  if (canUnpack(given)) header.delete(encodingHeader);
  const read = (body: Buffer): Buffer => {
    setPayload(body, given);
    return blank;
  };
  return { read, blank };
}

function readEnvelope(
  body: Buffer,
  given: string,
  blank: Buffer,
  setPayload: (bytes: Buffer, encoding: string) => void,
): Buffer {
  const length = body.length < ENVELOPE_BYTES ? Infinity : body.readUInt32BE(1);
  const end = ENVELOPE_BYTES + length;
  // Connect says best what is wrong with a message that is not all there.
  if (end > body.length) return body;
  const flags = body[0] ?? 0;
  const isCompressed = (flags & COMPRESSED) !== 0;
  setPayload(body.subarray(ENVELOPE_BYTES, end), isCompressed ? given : 'identity');
  // Compressed in a way that nobody knows, or that the headers do not tell, is connect's to refuse as well.
  const isKnown = given !== 'identity' && canUnpack(given);
  const one = envelope(isKnown ? flags & ~COMPRESSED : flags, blank);
  // And so are two messages where there must be one.
  return end === body.length ? one : Buffer.concat([one, one]);
}

function envelope(flags: number, data: Buffer): Buffer {
  const head = Buffer.from([flags, 0, 0, 0, data.length]);
  return Buffer.concat([head, data]);
}

/** A GET has its message in the URL, where any page can put one: small, and as it is. See `checkGetQuery`. */
function takeQuery(
  universal: UniversalServerRequest,
  contents: Contents,
  held: Held,
): UniversalServerRequest {
  const url = new URL(universal.url);
  const query = url.searchParams;
  const bytes = Buffer.from(query.get('message') ?? '', query.get('base64') === '1' ? 'base64' : 'utf8');
  const format = query.get('encoding') === 'json' ? 'json' : 'binary';
  const limit = RPC_LIMITS.getMessageBytes;
  if (bytes.length <= limit) contents.payload = { bytes, encoding: 'identity', format, held };
  else contents.error = malformedRequest(`the message of a GET must have at most ${limit} bytes`);
  query.set('message', BLANK[format].toString());
  query.delete('base64');
  return { ...universal, url: url.toString() };
}

/**
 * All bytes of a body.
 *
 * @throws BatonError INVALID_ARGUMENT, OVERLOADED, DEADLINE_EXCEEDED; CANCELED when the caller has gone
 */
function readBody(request: NodeRequest, held: Held): Promise<Buffer> {
  const limit = LIMITS.messageBytes + ENVELOPE_BYTES;
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const end = (settle: () => void): void => {
      clearTimeout(timer);
      request.off('data', onData).off('end', onEnd).off('error', onGone).off('close', onGone);
      settle();
    };
    const fail = (error: BatonError): void => {
      held.release();
      chunks.length = 0;
      if (held.isFlood) endSoon(connectionOf(request));
      end(() => reject(error));
    };
    held.onDrop = fail;
    const onData = (chunk: Buffer): void => {
      try {
        if (length + chunk.length > limit) throw messageTooLarge();
        held.add(chunk.length);
        length += chunk.length;
        chunks.push(chunk);
      } catch (error) {
        fail(error as BatonError);
      }
    };
    const onEnd = (): void => {
      held.whole();
      end(() => resolve(Buffer.concat(chunks, length)));
    };
    const onGone = (): void => fail(canceledError());
    const late = new BatonError('DEADLINE_EXCEEDED', 'the request did not arrive in time');
    const timer = setTimeout(() => {
      // Over HTTP/1.1 nothing else can come on its connection, and Node would answer it once more.
      if (request.httpVersionMajor === 1) endSoon(connectionOf(request));
      fail(late);
    }, RPC_LIMITS.requestTimeoutMs);
    request.on('data', onData).on('end', onEnd).on('error', onGone).on('close', onGone);
  });
}
