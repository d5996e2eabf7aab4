import { constants } from 'node:http2';
import type { NodeResponse } from './node_http.js';

/**
 * The writing end of a plain HTTP response, over HTTP/1.1 or HTTP/2. One message is written at a time, the next one
 * when the connection has taken it. Every wait also ends with the response.
 */
export class ResponseSink {
  #isFull = false;
  #closed = false;
  #wake: (() => void) | undefined;

  /** @param onClose called once when the response is over, also when it was sent to its end */
  constructor(
    private readonly response: NodeResponse,
    onClose: () => void,
  ) {
    // Node takes a stream's error without a listener for a crash; all that follows from one is done on `close`.
    response.on('error', () => {});
    response.on('drain', () => this.#resume());
    response.once('close', () => {
      this.#closed = true;
      this.#resume();
      onClose();
    });
  }

  /** Resolves when there is room for another message; false when the response is over. */
  async write(bytes: Buffer | string): Promise<boolean> {
    if (this.#closed || bytes.length === 0) return !this.#closed;
    // The two overloads of `write` differ between the servers; both take bytes and say whether there is room.
    const { response } = this;
    this.#isFull = !('stream' in response ? response.write(bytes) : response.write(bytes));
    while (this.#isFull && !this.#closed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return !this.#closed;
  }

  /** Writes the last bytes. A reader that has not taken them after `timeoutMs` is not waited for. */
  end(bytes: Buffer, timeoutMs: number): void {
    if (this.#closed) return;
    const timer = setTimeout(() => this.destroy(), timeoutMs);
    timer.unref();
    this.response.once('close', () => clearTimeout(timer));
    this.response.end(bytes);
  }

  /** Breaks the response off, with whatever it still holds. The reader sees that it is not complete. */
  destroy(): void {
    const { response } = this;
    if ('stream' in response) response.stream.close(constants.NGHTTP2_INTERNAL_ERROR);
    else response.destroy();
  }

  #resume(): void {
    this.#isFull = false;
    this.#wake?.();
  }
}
