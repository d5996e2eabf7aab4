import type { Writable } from 'node:stream';
import { LIMITS } from './limits.js';

/**
 * Where log lines go. Nobody may read the other end of a pipe, a disk may be full, a terminal closed: the server waits
 * for none of them. Lines that find no room are lost and counted, and the next that gets out says how many.
 */
export class LogSink {
  readonly #stream: Writable;
  #pendingBytes = 0;
  #lost = 0;

  /** @param stream has a listener for its errors, since Node takes one without for a crash */
  constructor(stream: Writable) {
    this.#stream = stream;
  }

  write(line: string): void {
    const bytes = Buffer.byteLength(line);
    if (this.#pendingBytes + bytes > LIMITS.logPendingBytes) {
      this.#lost += 1;
      return;
    }
    const lost = this.#lost;
    this.#lost = 0;
    this.#pendingBytes += bytes;
    this.#stream.write(lost === 0 ? line : lossLine(lost) + line, (error) => {
      this.#pendingBytes -= bytes;
      if (error !== null && error !== undefined) this.#lost += lost + 1;
    });
  }
}

/** In pino's form, level `warn`. */
function lossLine(lines: number): string {
  return `${JSON.stringify({ level: 40, time: new Date().toISOString(), lines, msg: 'log lines were lost' })}\n`;
}
