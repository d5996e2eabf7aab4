import { throwIfAborted } from '../base/errors.js';
import type { TakeMessage, WatchMessage, WatchStream } from '../service/api.js';
import type { ServerCall } from './call.js';

/**
 * One open stream as a transport holds it. Whatever the transport is doing when the caller goes away (waiting for a
 * message, writing one, blocked by a full connection), the abort of the call closes the service's side at once: the
 * code that pulls may never get to run again, so its `finally` is no place for that.
 */
export class OpenStream {
  #stream: WatchStream | undefined;

  constructor(
    private readonly open: () => Promise<WatchStream>,
    private readonly call: ServerCall,
  ) {
    call.signal.addEventListener('abort', () => this.close());
  }

  /** The next message, opening the stream with the first. Undefined at a good end; throws the error that ends it. */
  next(): Promise<WatchMessage | undefined> {
    return this.call.run(async () => {
      this.#stream ??= this.#opened(await this.open());
      return this.#stream.next();
    });
  }

  /** After a message: has the stream hand over what comes, in place of a `next` that would wait. See `WatchStream`. */
  handOver(take: TakeMessage): Promise<void> | undefined {
    return this.#stream?.handOver?.(take);
  }

  /** Throws why the call was given up, if it was. */
  throwIfAborted(): void {
    this.call.signal.throwIfAborted();
  }

  close(): void {
    this.#stream?.close();
  }

  /** The caller may have gone while the stream was being opened, before there was anything to close. */
  #opened(stream: WatchStream): WatchStream {
    if (this.call.signal.aborted) stream.close();
    throwIfAborted(this.call.signal);
    return stream;
  }
}
