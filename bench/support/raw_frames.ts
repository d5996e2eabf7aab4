/**
 * What no client's library sends, as bytes of HTTP/2: streams that are reset in the moment in which they are opened, and a message
 * of which each byte comes by itself.
 */

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const [DATA, HEADERS, RST_STREAM, SETTINGS, PING] = [0, 1, 3, 4, 6];
const END_HEADERS = 4;
const ACK = 1;
const CANCEL = 8;

function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** A text of HPACK, as it is; shorter than 127 bytes. */
const text = (of: string): Buffer => Buffer.concat([Buffer.of(of.length), Buffer.from(of)]);

/** The headers of a call over gRPC, by the static table of HPACK and literals that nobody has to remember. */
function headersOf(path: string): Buffer {
  const [methodPost, schemeHttp] = [0x83, 0x86];
  const [literalPath, literalAuthority] = [0x04, 0x01];
  const literalContentType = [0x0f, 0x10];
  return Buffer.concat([
    Buffer.of(methodPost, schemeHttp, literalPath),
    text(path),
    Buffer.of(literalAuthority),
    text('127.0.0.1'),
    Buffer.of(...literalContentType),
    text('application/grpc'),
    Buffer.of(0),
    text('te'),
    text('trailers'),
  ]);
}

export const OPENING = Buffer.concat([PREFACE, frame(SETTINGS, 0, 0, Buffer.alloc(0))]);
/** It is answered when all before it has been taken in. */
export const LAST_PING = frame(PING, 0, 0, Buffer.from('all sent'));
const PONG = frame(PING, ACK, 0, Buffer.from('all sent'));

export const hasPong = (received: Buffer): boolean => received.includes(PONG);

/** One stream whose message comes a byte in each frame. */
export function inPieces(path: string, pieces: number): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(pieces, 1);
  const [headers, data] = [frame(HEADERS, END_HEADERS, 1, headersOf(path)), frame(DATA, 0, 1, Buffer.of(0))];
  return Buffer.concat([headers, frame(DATA, 0, 1, head), Buffer.alloc(pieces * data.length, data)]);
}

/** @param first the number of the first stream, which is odd */
export function openedAndReset(path: string, first: number, streams: number): Buffer {
  const headers = headersOf(path);
  const code = Buffer.alloc(4);
  code.writeUInt32BE(CANCEL);
  return Buffer.concat(
    Array.from({ length: streams }, (_, index) => {
      const stream = first + 2 * index;
      return Buffer.concat([
        frame(HEADERS, END_HEADERS, stream, headers),
        frame(RST_STREAM, 0, stream, code),
      ]);
    }),
  );
}
