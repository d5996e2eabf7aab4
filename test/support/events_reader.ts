import { connect as http2Connect } from 'node:http2';
import { Readable } from 'node:stream';
import { Signal, waitFor, within } from './wait.js';

/** One line of the stream, as JSON. */
export interface Line {
  readonly kind: string;
  readonly revision: string;
  readonly resumeToken: string;
  readonly event?: {
    readonly revision: string;
    readonly version: string;
    readonly type: string;
    readonly run: Record<string, unknown> & { readonly id: string; readonly status: string };
  };
  readonly error?: {
    readonly code: string;
    readonly message: string;
    readonly details: readonly { readonly type: string; readonly debug?: Record<string, unknown> }[];
  };
}

/** One server-sent event: what a browser makes of it. */
export interface ServerSent {
  readonly event: string;
  readonly id: string | undefined;
  readonly data: string;
}

interface Response {
  readonly status: number;
  readonly headers: Headers;
  readonly body: AsyncIterable<Uint8Array>;
}

type HttpVersion = 'h1' | 'h2';

/** A stream of events that collects all it receives. */
export class EventsReader {
  readonly lines: Line[] = [];
  readonly sent: ServerSent[] = [];
  retryMs: number | undefined;
  status = 0;
  headers = new Headers();
  /** The body of an answer that is no stream. */
  body = '';
  ended = false;
  /** Why the body broke off; undefined after a complete one. */
  error: unknown;
  readonly #abort = new AbortController();
  readonly #opened = new Signal();
  readonly #done: Promise<void>;

  constructor(
    baseUrl: string,
    query: string | Record<string, string> = '',
    headers: Record<string, string> = {},
    version: HttpVersion = 'h1',
  ) {
    const url = new URL(`/v1/events?${new URLSearchParams(query).toString()}`, baseUrl);
    this.#done = this.#run(url, headers, version);
  }

  async #run(url: URL, headers: Record<string, string>, version: HttpVersion): Promise<void> {
    try {
      const { signal } = this.#abort;
      const response = await (version === 'h1' ? openH1 : openH2)(url, headers, signal);
      this.status = response.status;
      this.headers = response.headers;
      let text = '';
      const decoder = new TextDecoder();
      for await (const chunk of response.body)
        text = this.#take(text + decoder.decode(chunk, { stream: true }));
      this.body += text;
    } catch (error) {
      this.error = error;
    }
    this.ended = true;
    this.#opened.send();
  }

  /** Takes the whole lines of a text, and gives the rest of it. */
  #take(text: string): string {
    const type = this.headers.get('content-type') ?? '';
    if (type.startsWith('application/json')) return text;
    const isSse = type.startsWith('text/event-stream');
    const parts = text.split(isSse ? '\n\n' : '\n');
    const rest = parts.pop() ?? '';
    for (const part of parts) {
      const json = isSse ? this.#serverSent(part) : part;
      if (json !== undefined) this.lines.push(JSON.parse(json) as Line);
    }
    if (this.lines.length > 0) this.#opened.send();
    return rest;
  }

  #serverSent(block: string): string | undefined {
    const fields = new Map(
      block.split('\n').map((line) => {
        const end = line.indexOf(': ');
        return [line.slice(0, end), line.slice(end + 2)] as const;
      }),
    );
    const retry = fields.get('retry');
    if (retry !== undefined) this.retryMs = Number(retry);
    const data = fields.get('data');
    if (data !== undefined)
      this.sent.push({ event: fields.get('event') ?? 'message', id: fields.get('id'), data });
    return data;
  }

  get events(): NonNullable<Line['event']>[] {
    return this.lines.flatMap(({ kind, event }) => (kind === 'EVENT' && event !== undefined ? [event] : []));
  }

  get revisions(): string[] {
    return this.events.map(({ revision }) => revision);
  }

  get last(): Line | undefined {
    return this.lines.at(-1);
  }

  /** Waits for the first line, and fails when the stream was refused. */
  async opened(): Promise<this> {
    await within(this.#opened.promise, 'the stream to open');
    if (this.lines.length === 0)
      throw new Error(`status ${this.status}: ${this.body}`, { cause: this.error });
    return this;
  }

  async hasEvents(count: number): Promise<void> {
    await waitFor(() => this.events.length >= count || this.ended, `${count} events`);
    if (this.events.length < count) throw new Error(`the stream ended after ${this.events.length} events`);
  }

  async has(kind: string): Promise<void> {
    await waitFor(() => this.lines.some((line) => line.kind === kind) || this.ended, kind);
  }

  async end(): Promise<this> {
    await within(this.#done, 'the stream to end');
    return this;
  }

  async cancel(): Promise<void> {
    this.#abort.abort();
    await this.end();
  }
}

async function openH1(url: URL, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
  const response = await fetch(url, { headers, signal });
  return { status: response.status, headers: response.headers, body: response.body ?? Readable.from([]) };
}

function openH2(url: URL, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
  const session = http2Connect(url.origin);
  const stream = session.request({ ':path': url.pathname + url.search, ...headers });
  signal.addEventListener('abort', () => stream.destroy(new Error('canceled')));
  stream.once('close', () => session.close());
  return new Promise((resolve, reject) => {
    session.once('error', reject);
    stream.once('error', reject).once('response', (given) => {
      const plain = Object.entries(given).filter(([name]) => !name.startsWith(':'));
      const answer = new Headers(plain.map(([name, value]): [string, string] => [name, String(value)]));
      resolve({ status: Number(given[':status']), headers: answer, body: stream });
    });
  });
}
