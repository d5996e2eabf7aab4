import { RPC_LIMITS } from './limits.js';

type Task = () => void;

/** What one connection has waiting. */
interface Line {
  tasks: Task[];
  /** Of the first that waits: taking it off the front of a long array would move all others. */
  next: number;
}

/**
 * Begins the requests of one listener, or takes its connections over: a few in each turn of the event loop, one of each connection after the other. So a
 * connection that has sent thousands of requests at once waits for itself, and nobody else waits for it.
 */
export class Turns {
  readonly #lines = new WeakMap<object, Line>();
  /** Those with something waiting, each once: first what is left of this round, the last one being next. */
  #round: Line[] = [];
  #nextRound: Line[] = [];
  readonly #perTurn: number;
  #isAhead = false;
  #waiting = 0;

  constructor(perTurn: number = RPC_LIMITS.requestsPerTurn) {
    this.#perTurn = perTurn;
  }

  /**
   * False when too many wait already and this connection is one of those that made it so.
   *
   * @param task must not throw, and does nothing when its request has gone meanwhile
   */
  add(connection: object, task: Task): boolean {
    let line = this.#lines.get(connection);
    if (line === undefined) this.#lines.set(connection, (line = { tasks: [], next: 0 }));
    const isFull = this.#waiting >= RPC_LIMITS.requestsWaiting;
    if (isFull && line.tasks.length - line.next >= RPC_LIMITS.requestsWaitingShare) return false;
    if (line.tasks.length === 0) this.#nextRound.push(line);
    line.tasks.push(task);
    this.#waiting += 1;
    this.#turnAhead();
    return true;
  }

  #turnAhead(): void {
    if (this.#isAhead) return;
    this.#isAhead = true;
    setImmediate(() => this.#turn());
  }

  #turn(): void {
    this.#isAhead = false;
    for (let begun = 0; begun < this.#perTurn; begun += 1) {
      const task = this.#take();
      if (task === undefined) return;
      task();
    }
    if (this.#waiting > 0) this.#turnAhead();
  }

  #take(): Task | undefined {
    if (this.#round.length === 0) {
      this.#round = this.#nextRound.reverse();
      this.#nextRound = [];
    }
    const line = this.#round.pop();
    if (line === undefined) return undefined;
    const task = line.tasks[line.next];
    line.next += 1;
    this.#waiting -= 1;
    if (line.next < line.tasks.length) this.#nextRound.push(line);
    else {
      line.tasks = [];
      line.next = 0;
    }
    return task;
  }
}
