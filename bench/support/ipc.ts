import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** A part of a benchmark in a process of its own, asked by messages: one question, one answer at a time. */
export class Child {
  readonly #process: ChildProcess;
  #answer: ((value: unknown) => void) | undefined;
  #fail: ((error: Error) => void) | undefined;

  /** @param module relative to this file, as it is after the build */
  constructor(module: string, args: object, execArgv: readonly string[] = []) {
    const path = fileURLToPath(new URL(module, import.meta.url));
    this.#process = fork(path, [JSON.stringify(args)], { execArgv: [...execArgv] });
    this.#process.on('message', (value) => this.#answer?.(value));
    this.#process.on('exit', (code) => this.#fail?.(new Error(`${module} ended with ${code}`)));
  }

  /** The next message of the child, after sending it `question` if there is one. */
  ask<T>(question?: object): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#answer = (value) => resolve(value as T);
      this.#fail = reject;
      if (question !== undefined) this.#process.send(question);
    });
  }

  async end(): Promise<void> {
    const child = this.#process;
    this.#fail = undefined;
    if (child.exitCode !== null || child.signalCode !== null) return;
    await new Promise<void>((resolve) => {
      child.once('exit', () => resolve());
      child.kill('SIGTERM');
    });
  }
}

export function send(message: object): void {
  process.send?.(message);
}

/** What the parent gave as `args`. */
export function childArgs(): object {
  return JSON.parse(process.argv[2] ?? '{}') as object;
}
