const NOTIFICATION = 'A'.charCodeAt(0);
const HEADER_BYTES = 5;

/**
 * Follows what PostgreSQL says on one connection, message by message, and takes notifications of one channel out. The
 * rest passes as it is, so the connection stays well formed: only the doorbell is broken.
 */
export class NotificationFilter {
  readonly #channel: string;
  #rest: Buffer = Buffer.alloc(0);

  constructor(channel: string) {
    this.#channel = channel;
  }

  /** Whole messages of what came so far; the beginning of another one is kept for the next call. */
  pass(chunk: Buffer, drop: boolean): { readonly bytes: Buffer; readonly dropped: number } {
    const all = Buffer.concat([this.#rest, chunk]);
    const kept: Buffer[] = [];
    let dropped = 0;
    let at = 0;
    while (all.length - at >= HEADER_BYTES) {
      const end = at + 1 + all.readUInt32BE(at + 1);
      if (end > all.length) break;
      const message = all.subarray(at, end);
      if (drop && this.#isDoorbell(message)) dropped += 1;
      else kept.push(message);
      at = end;
    }
    this.#rest = all.subarray(at);
    return { bytes: Buffer.concat(kept), dropped };
  }

  /** NotificationResponse: type, length, process id, then the name of the channel and the payload, each with a 0. */
  #isDoorbell(message: Buffer): boolean {
    if (message[0] !== NOTIFICATION) return false;
    const nameAt = HEADER_BYTES + 4;
    return message.toString('utf8', nameAt, message.indexOf(0, nameAt)) === this.#channel;
  }
}
