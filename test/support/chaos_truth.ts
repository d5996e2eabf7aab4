import { textOfRow, timeOf, type EventText, type Row } from './chaos_canonical.js';

/** Where a run is, as far as filters care. */
export interface Place {
  readonly stage: string;
  readonly status: string;
  readonly state: string;
}

/** One event as the write-ahead log tells it. */
export interface TrueEvent {
  readonly revision: bigint;
  /** The transaction that committed it. */
  readonly xid: string;
  readonly runId: string;
  readonly version: bigint;
  readonly pipeline: string;
  readonly repository: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Where the run was after and before the change; the latter is that of the event before, not of this row. */
  readonly after: Place;
  readonly before: Place | undefined;
  readonly text: EventText;
  /** Just before its commit, in milliseconds of the machine's clock. */
  readonly appendedAt: number;
}

/** `name[type]:value` for each column; a text is in quotes and doubles those in it. */
const COLUMN = /([a-z_0-9]+)\[([^\]]+)\]:(null|'(?:[^']|'')*'|[^ ]+)(?: |$)/y;

export function parseColumns(text: string): Row {
  const row: Record<string, string | undefined> = {};
  COLUMN.lastIndex = 0;
  while (COLUMN.lastIndex < text.length) {
    const at = COLUMN.lastIndex;
    const match = COLUMN.exec(text);
    if (match === null) throw new Error(`not a row: ${text.slice(at, at + 200)}`);
    const [, name = '', , value = ''] = match;
    if (value === 'null') row[name] = undefined;
    else row[name] = value.startsWith("'") ? value.slice(1, -1).replaceAll("''", "'") : value;
  }
  return row;
}

interface Transaction {
  readonly xid: string;
  /** Changes of runs: what has to be in the log, from a table that knows nothing of revisions. */
  readonly changes: Row[];
  readonly events: Row[];
  readonly inputs: (readonly [string, string | undefined])[];
}

/**
 * What really was committed, and in which order, from the lines of `test_decoding`. It does not use the server's
 * code, and checks the log itself: every change of a run is one event, revisions follow the order of commits, versions
 * are dense.
 */
export class Truth {
  readonly events: TrueEvent[] = [];
  readonly #byRun = new Map<string, TrueEvent>();
  readonly #inputs = new Map<string, string | undefined>();
  readonly #versions = new Map<string, string>();
  readonly #seen = new Set<string>();
  #open: Transaction | undefined;
  /** What is wrong with the log itself. */
  readonly faults: string[] = [];
  readonly #onRun: ((row: Row) => void) | undefined;
  commits = 0;
  /** Transactions that were decoded again after PostgreSQL had been killed. */
  repeats = 0;
  /** The last message that somebody put into the log: nothing that was committed before it is missing. */
  lastMessage = '';

  /** @param onRun told of each row of a run as it was committed, in the order of commits, lease extensions included */
  constructor(onRun?: (row: Row) => void) {
    this.#onRun = onRun;
  }

  take(line: string): void {
    if (line.startsWith('BEGIN ')) {
      this.#open = { xid: line.slice(6), changes: [], events: [], inputs: [] };
      return;
    }
    // A message of the log alone begins no transaction in the output; it still comes at its commit.
    if (line.startsWith('message:')) {
      this.lastMessage = line;
      return;
    }
    const open = this.#open;
    if (open === undefined) return;
    if (line.startsWith('COMMIT ')) {
      this.#open = undefined;
      this.#commit(open);
    } else {
      this.#takeRow(open, line);
    }
  }

  #takeRow(open: Transaction, line: string): void {
    const match = /^table baton\.(runs|run_events_\w+): (INSERT|UPDATE|DELETE): /.exec(line);
    if (match === null || match[2] === 'DELETE') return;
    const row = parseColumns(line.slice(match[0].length));
    if (match[1] !== 'runs') {
      if (match[2] === 'INSERT') open.events.push(row);
      else this.faults.push(`an event was changed: ${line.slice(0, 200)}`);
      return;
    }
    const id = row['id'] ?? '';
    if (match[2] === 'INSERT') open.inputs.push([id, row['input']]);
    open.changes.push(row);
  }

  #commit(transaction: Transaction): void {
    // After a crash the slot may go back a little; a number of a transaction is never used again.
    if (this.#seen.has(transaction.xid)) {
      this.repeats += 1;
      return;
    }
    this.#seen.add(transaction.xid);
    for (const [id, input] of transaction.inputs) this.#inputs.set(id, input);
    const changed: string[] = [];
    for (const row of transaction.changes) {
      this.#onRun?.(row);
      const id = row['id'] ?? '';
      const version = row['version'] ?? '';
      // A lease that was only extended is no change: it keeps the version.
      if (this.#versions.get(id) === version) continue;
      this.#versions.set(id, version);
      changed.push(`${id} ${version}`);
    }
    const logged = transaction.events.map((row) => `${row['run_id']} ${row['version']}`);
    if (changed.join() !== logged.join()) {
      this.faults.push(
        `transaction ${transaction.xid} changed ${changed.join()} and logged ${logged.join()}`,
      );
    }
    if (transaction.events.length > 0) this.commits += 1;
    for (const row of transaction.events) this.#append(row, transaction.xid);
  }

  #append(row: Row, xid: string): void {
    const revision = BigInt(row['revision'] ?? -1);
    const runId = row['run_id'] ?? '';
    const version = BigInt(row['version'] ?? -1);
    const previous = this.#byRun.get(runId);
    const last = this.events.at(-1);
    if (last !== undefined && revision <= last.revision)
      this.faults.push(`revision ${revision} was committed after ${last.revision}`);
    if (version !== (previous?.version ?? 0n) + 1n)
      this.faults.push(`run ${runId} has version ${version} after ${previous?.version}`);
    const event: TrueEvent = {
      revision,
      xid,
      runId,
      version,
      pipeline: row['pipeline'] ?? '',
      repository: row['repository'] ?? '',
      labels: JSON.parse(row['labels'] ?? '{}') as Record<string, string>,
      after: { stage: row['stage'] ?? '', status: row['status'] ?? '', state: row['state'] ?? '' },
      before: previous?.after,
      text: textOfRow(row, previous?.after.status ?? '', this.#inputs.get(runId)),
      appendedAt: timeOf(row['append_time']) ?? 0,
    };
    this.#byRun.set(runId, event);
    this.events.push(event);
  }

  get head(): bigint {
    return this.events.at(-1)?.revision ?? 0n;
  }
}
