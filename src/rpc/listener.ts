/** Where to listen. */
export interface ListenAddress {
  readonly host: string;
  /** 0 for any free one. */
  readonly port: number;
}

/** A listener that has been started. */
export interface RpcServer {
  readonly port: number;
  /**
   * Stops accepting connections and calls, and resolves when the calls in flight have ended; those that have not by
   * the drain timeout are broken. The caller sees to it that waiting calls and streams end.
   */
  drain(): Promise<void>;
  /** Breaks all calls and connections. Harmless when repeated or after `drain`. */
  close(): Promise<void>;
}
