import { describeInput, type Input } from './input.js';

/** One fault, however many inputs showed it. */
export interface Finding {
  readonly problem: string;
  readonly what: string;
  count: number;
  /** The inputs that showed it first, or that were under way when it showed. */
  readonly numbers: number[];
  readonly input: string;
}

const NUMBERS_KEPT = 5;

/** Gathers what went wrong, each kind of fault once, and counts what went well. */
export class Findings {
  readonly #found = new Map<string, Finding>();
  /** By method, how often each outcome was met. */
  readonly outcomes = new Map<string, Map<string, number>>();

  get all(): readonly Finding[] {
    return [...this.#found.values()];
  }

  /** An input whose answer shows a problem. */
  add(problem: string, number: number, input: Input): void {
    const what = input.kind === 'http' ? `${input.method}, ${input.transport}` : input.faults.join();
    const faults = input.kind === 'http' && input.faults.length > 0 ? ` (${input.faults.join(', ')})` : '';
    this.#note(`${problem} ${what}`, {
      problem,
      what: what + faults,
      numbers: [number],
      input: describeInput(input),
    });
  }

  /** A problem that may come from any of the inputs under way. */
  addUnderWay(problem: string, underWay: ReadonlyMap<number, Input>): void {
    const numbers = [...underWay.keys()];
    const input = [...underWay].map(([number, one]) => `${number}: ${describeInput(one)}`).join('\n    ');
    this.#note(problem, { problem, what: 'one of those under way', numbers, input });
  }

  #note(key: string, { numbers, ...rest }: Omit<Finding, 'count'>): void {
    const known = this.#found.get(key);
    if (known === undefined) {
      this.#found.set(key, { ...rest, numbers: [...numbers], count: 1 });
      return;
    }
    known.count += 1;
    if (known.numbers.length < NUMBERS_KEPT) known.numbers.push(...numbers);
  }

  count(input: Input, outcome: string): void {
    const name = input.kind === 'http' ? input.method : 'sockets';
    const outcomes = this.outcomes.get(name) ?? new Map<string, number>();
    this.outcomes.set(name, outcomes);
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }
}
