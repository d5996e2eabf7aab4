import type { WatchMessage } from './message.js';

/** The messages that wait for the writer of one stream, and what they and the one it is busy with take. */
export class MessageQueue {
  #waiting: { readonly message: WatchMessage; readonly bytes: number }[] = [];
  #waitingBytes = 0;
  #takenBytes = 0;

  get length(): number {
    return this.#waiting.length;
  }

  /** Of all messages here and of the one that was taken last, as estimated. */
  get bytes(): number {
    return this.#waitingBytes + this.#takenBytes;
  }

  get last(): WatchMessage | undefined {
    return this.#waiting.at(-1)?.message;
  }

  add(message: WatchMessage, bytes: number): void {
    this.#waiting.push({ message, bytes });
    this.#waitingBytes += bytes;
  }

  /** The writer is busy with it until `taken`. */
  take(): WatchMessage | undefined {
    const next = this.#waiting.shift();
    if (next === undefined) return undefined;
    this.#waitingBytes -= next.bytes;
    this.#takenBytes = next.bytes;
    return next.message;
  }

  /** The writer has done what it had to do with the last message. */
  taken(): void {
    this.#takenBytes = 0;
  }

  clear(): void {
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#takenBytes = 0;
  }
}
