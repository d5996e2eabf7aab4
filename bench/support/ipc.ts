import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { cleanUpLater } from './cleanup.js';

/** What travels to the parent: an answer, or why there is none. */
type Message = { readonly value: unknown } | { readonly error: string };

/** A child that does not end when asked to is killed after this long. */
const END_TIMEOUT_MS = 15_000;

/** A part of a benchmark in a process of its own, asked by messages: one question, one answer at a time. */
export class Child {
  readonly #process: ChildProcess;
  readonly #module: string;
  readonly #exited: Promise<void>;
  #settle: ((message: Message) => void) | undefined;
  /** What came before it was asked for: that the child is ready, or has ended. */
  readonly #early: Message[] = [];

  /**
   * @param module below `bench/`, as it is after the build
   * @param execArgv options of node
   */
  constructor(module: string, args: object, execArgv: readonly string[] = []) {
    const path = fileURLToPath(new URL(`../${module}`, import.meta.url));
    this.#module = module;
    this.#process = fork(path, [JSON.stringify(args)], { execArgv: [...execArgv] });
    this.#process.on('message', (message: Message) => this.#take(message));
    this.#exited = new Promise((resolve) => {
      this.#process.once('exit', (code, signal) => {
        this.#take({ error: `it ended with ${signal ?? `code ${code}`}` });
        resolve();
      });
    });
  }

  #take(message: Message): void {
    if (this.#settle === undefined) this.#early.push(message);
    else this.#settle(message);
    this.#settle = undefined;
  }

  /** The next message of the child, after sending it `question` if there is one. */
  ask<T>(question?: object): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#settle = (message) => {
        if ('error' in message) reject(new Error(`${this.#module}: ${message.error}`));
        else resolve(message.value as T);
      };
      const early = this.#early.shift();
      if (early !== undefined) this.#take(early);
      else if (question !== undefined) this.#process.send(question);
    });
  }

  readonly end = cleanUpLater(async () => {
    this.#process.kill('SIGTERM');
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), END_TIMEOUT_MS);
    await this.#exited;
    clearTimeout(timer);
  });
}

/** What the parent gave as `args`. */
export function childArgs(): object {
  return JSON.parse(process.argv[2] ?? '{}') as object;
}

/**
 * The child's side: says that it is ready, then answers question after question until the parent ends it or is gone.
 *
 * @param end closes what is open, before the process ends
 */
export function serve(
  ready: object,
  answer: (question: unknown) => object | Promise<object>,
  end: () => void | Promise<void>,
): void {
  const send = (message: Message): void => {
    if (process.connected) process.send?.(message);
  };
  const fail = (error: unknown): void =>
    send({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  process.on('message', (question: unknown) => {
    Promise.resolve(question)
      .then(answer)
      .then((value) => send({ value }), fail);
  });
  let ending = false;
  const stop = (): void => {
    if (ending) return;
    ending = true;
    // What fails now has no one to tell; the parent is waiting for the exit only.
    Promise.resolve()
      .then(end)
      .then(
        () => process.exit(0),
        () => process.exit(1),
      );
  };
  process.once('SIGTERM', stop);
  process.once('disconnect', stop);
  // Ctrl-C reaches the whole group; the parent ends its children in order.
  process.on('SIGINT', () => undefined);
  send({ value: ready });
}
