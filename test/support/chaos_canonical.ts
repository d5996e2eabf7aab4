import type { JsonValue } from '@bufbuild/protobuf';
import { timestampMs, type Timestamp } from '@bufbuild/protobuf/wkt';
import { EventType, type RunEvent } from '../../gen/baton/v1/run_event_pb.js';
import { RunState, type Run } from '../../gen/baton/v1/run_pb.js';

/** A row of the write-ahead log: column name to text, undefined for null. */
export type Row = Readonly<Record<string, string | undefined>>;

/** Two texts of one event: as a stream without payloads has to show it, and what a payload adds. */
export interface EventText {
  readonly bare: string;
  readonly payload: string;
}

/** JSON with sorted keys, so that equal values have equal texts. */
function sorted(value: JsonValue | undefined): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object') return value ?? null;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  );
}

const milliseconds = (time: Timestamp | undefined): number | null =>
  time === undefined ? null : timestampMs(time);

/** What a client was shown of a run, without its payload. Every field of the message is in it. */
export function runTextOfProto(run: Run): string {
  return JSON.stringify([
    run.id,
    run.pipeline,
    run.stage,
    run.status,
    RunState[run.state],
    run.repository,
    sorted(run.labels),
    run.error === undefined ? null : [run.error.code, run.error.message],
    run.priority,
    run.concurrencyKey,
    run.attempt,
    run.maxAttempts,
    run.workerId,
    milliseconds(run.leaseExpireTime),
    milliseconds(run.scheduleTime),
    run.cancelRequested,
    run.progress,
    run.statusMessage,
    String(run.version),
    milliseconds(run.createTime),
    milliseconds(run.updateTime),
    milliseconds(run.startTime),
    milliseconds(run.endTime),
    run.requestId,
    run.traceParent,
  ]);
}

/** Where a run's text has the end of its lease. */
const LEASE_END = 13;

/**
 * Whether a run that was shown as it is fits the text of its last event: the same in everything, but that a lease may
 * have been extended since, which is no event.
 */
export function fitsEvent(shown: string | undefined, event: string): boolean {
  if (shown === undefined || shown === event) return shown === event;
  const [is, should] = [JSON.parse(shown) as unknown[], JSON.parse(event) as unknown[]];
  const isExtended = Number(is[LEASE_END]) > Number(should[LEASE_END]) && should[LEASE_END] !== null;
  is[LEASE_END] = should[LEASE_END];
  return isExtended && JSON.stringify(is) === JSON.stringify(should);
}

export function payloadTextOfProto(run: Run): string {
  return JSON.stringify([sorted(run.input), sorted(run.output), sorted(run.checkpoint)]);
}

export function textOfProto(event: RunEvent): EventText {
  const { run } = event;
  if (run === undefined) throw new Error(`event ${event.revision} has no run`);
  const head = [String(event.revision), String(event.version), EventType[event.type], event.previousStatus];
  return { bare: `${JSON.stringify(head)}${runTextOfProto(run)}`, payload: payloadTextOfProto(run) };
}

/** `2026-01-31 12:00:00.123456+00`; the service passes times on down to the millisecond. */
export function timeOf(text: string | undefined): number | null {
  if (text === undefined) return null;
  const match = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?\+00$/.exec(text);
  if (match === null) throw new Error(`not a time in UTC: ${text}`);
  return Date.parse(`${match[1]}T${match[2]}.${(match[3] ?? '').padEnd(3, '0').slice(0, 3)}Z`);
}

function must(row: Row, column: string): string {
  const value = row[column];
  if (value === undefined) throw new Error(`${column} is null in ${JSON.stringify(row)}`);
  return value;
}

/** The same of a row of `baton.run_events`, whose id is in `run_id`. */
export function runTextOfRow(row: Row): string {
  return JSON.stringify([
    must(row, 'run_id'),
    must(row, 'pipeline'),
    must(row, 'stage'),
    must(row, 'status'),
    must(row, 'state'),
    must(row, 'repository'),
    sorted(JSON.parse(must(row, 'labels')) as JsonValue),
    row['error_code'] === undefined ? null : [row['error_code'], row['error_message'] ?? ''],
    Number(must(row, 'priority')),
    must(row, 'concurrency_key'),
    Number(must(row, 'attempt')),
    Number(must(row, 'attempts_allowed')),
    must(row, 'worker_id'),
    timeOf(row['lease_expire_time']),
    timeOf(row['schedule_time']),
    must(row, 'cancel_requested') === 'true',
    Number(must(row, 'progress')),
    must(row, 'status_message'),
    must(row, 'version'),
    timeOf(row['create_time']),
    timeOf(row['update_time']),
    timeOf(row['start_time']),
    timeOf(row['end_time']),
    row['request_id'] ?? '',
    must(row, 'trace_parent'),
  ]);
}

const json = (text: string | undefined): unknown =>
  text === undefined ? null : sorted(JSON.parse(text) as JsonValue);

/** @param input of the run, as it was when the run was inserted */
export function textOfRow(row: Row, previousStatus: string, input: string | undefined): EventText {
  const head = [must(row, 'revision'), must(row, 'version'), must(row, 'type'), previousStatus];
  return {
    bare: `${JSON.stringify(head)}${runTextOfRow(row)}`,
    payload: JSON.stringify([json(input), json(row['output']), json(row['checkpoint'])]),
  };
}
