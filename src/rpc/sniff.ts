import type { Socket } from 'node:net';

/** What every HTTP/2 connection begins with (RFC 9113, 3.4). HTTP/1.1 has no method PRI. */
const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');

export type HttpVersion = 'http1' | 'http2';

/**
 * Finds out whether a new connection speaks HTTP/1.1 or HTTP/2 in cleartext, and hands it on with nothing read from
 * it. A connection that sends too little within `timeoutMs`, or ends before, is destroyed.
 *
 * Reads with `readable` and `read()` only: after `data` and `pause` the native HTTP/2 session, which reads from the
 * handle itself, never sees the bytes.
 */
export function sniff(
  socket: Socket,
  timeoutMs: number,
  found: (version: HttpVersion, seen: Buffer) => void,
): void {
  let seen: Buffer = Buffer.alloc(0);
  const stop = (): void => {
    clearTimeout(timer);
    socket.off('readable', onReadable).off('end', destroy).off('error', destroy).off('close', stop);
  };
  const destroy = (): void => {
    socket.destroy();
  };
  const onReadable = (): void => {
    for (let chunk = readBytes(socket); chunk !== null; chunk = readBytes(socket)) {
      seen = seen.length === 0 ? chunk : Buffer.concat([seen, chunk]);
    }
    const version = versionOf(seen);
    if (version === undefined) return;
    stop();
    socket.unshift(seen);
    found(version, seen);
  };
  const timer = setTimeout(destroy, timeoutMs);
  socket.on('readable', onReadable).on('end', destroy).on('error', destroy).on('close', stop);
}

const FRAME_HEAD_BYTES = 9;
const RST_STREAM = 3;

/** How many streams are reset in the first bytes of an HTTP/2 connection, which begin with the preface. */
export function resetsIn(seen: Buffer): number {
  let resets = 0;
  for (
    let at = PREFACE.length;
    at + FRAME_HEAD_BYTES <= seen.length;
    at += FRAME_HEAD_BYTES + seen.readUIntBE(at, 3)
  ) {
    if (seen[at + 3] === RST_STREAM) resets += 1;
  }
  return resets;
}

function readBytes(socket: Socket): Buffer | null {
  return socket.read() as Buffer | null;
}

/** Undefined while the bytes may still become either. */
function versionOf(seen: Buffer): HttpVersion | undefined {
  const length = Math.min(seen.length, PREFACE.length);
  if (seen.compare(PREFACE, 0, length, 0, length) !== 0) return 'http1';
  return length === PREFACE.length ? 'http2' : undefined;
}
