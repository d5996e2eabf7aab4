import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { Duration } from '@bufbuild/protobuf/wkt';
import type { RunFilterSchema } from '../../gen/baton/v1/filter_pb.js';
import { WatchRunsRequestSchema, type WatchRunsRequest } from '../../gen/baton/v1/job_service_pb.js';
import { RunState } from '../../gen/baton/v1/run_pb.js';
import { BatonError, invalidArgument } from '../base/errors.js';
import { RUN_STATES } from '../run/run.js';
import type { Violations } from '../base/violations.js';
import { converting } from './convert/violations.js';
import { truncate } from '../base/text.js';

/** The query parameter for each field of the request, as far as the names differ. */
const PARAMETER_OF_FIELD: Readonly<Record<string, string>> = {
  'filter.run_ids': 'run_id',
  'filter.pipelines': 'pipeline',
  'filter.stages': 'stage',
  'filter.statuses': 'status',
  'filter.states': 'state',
  'filter.repository': 'repository',
  'filter.labels': 'label',
};

const PARAMETERS = [
  ...['after', 'run_id', 'pipeline', 'stage', 'status', 'state', 'repository', 'label'],
  ...['include_state', 'include_payload', 'until_terminal', 'bookmark_interval'],
];

export const LAST_EVENT_ID = 'Last-Event-ID';

/**
 * Reads a watch's request from the query of a URL. With a `Last-Event-ID`, what the URL says of where to begin
 * (`after`, `include_state`) does not count: a browser that reconnects repeats the URL and adds the id of the last
 * message.
 *
 * @throws BatonError INVALID_ARGUMENT with every parameter that is unknown or malformed
 */
export function requestFromQuery(query: string, lastEventId: string): WatchRunsRequest {
  const given = new URLSearchParams(query);
  return converting((violations) => {
    const reader = new QueryReader(given, violations);
    reader.refuseUnknown();
    const resumes = lastEventId !== '';
    const [after, includeState] = [reader.text('after'), reader.flag('include_state')];
    const bookmarkInterval = reader.duration('bookmark_interval');
    return create(WatchRunsRequestSchema, {
      filter: readFilter(reader),
      after: resumes ? lastEventId : after,
      includeState: includeState && !resumes,
      includePayload: reader.flag('include_payload'),
      untilTerminal: reader.flag('until_terminal'),
      ...(bookmarkInterval && { bookmarkInterval }),
    });
  });
}

function readFilter(reader: QueryReader): MessageInitShape<typeof RunFilterSchema> {
  return {
    runIds: reader.list('run_id'),
    pipelines: reader.list('pipeline'),
    stages: reader.list('stage'),
    statuses: reader.list('status'),
    states: reader.states('state'),
    repository: reader.text('repository'),
    labels: reader.labels('label'),
  };
}

/** An error of the call with its violations under the names that this caller knows. Others are returned as they are. */
export function inQueryNames(error: unknown, lastEventId: string): unknown {
  if (!(error instanceof BatonError) || error.violations.length === 0) return error;
  const renamed = error.violations.map(({ field, description }) => {
    const [, name = field, rest = ''] = /^(filter\.\w+|\w+)(.*)$/s.exec(field) ?? [];
    if (name === 'after' && lastEventId !== '') return { field: LAST_EVENT_ID, description };
    return { field: (PARAMETER_OF_FIELD[name] ?? name) + rest, description };
  });
  return invalidArgument(renamed, Number(error.metadata['violations_omitted'] ?? 0));
}

/** Reads parameters of each kind, and notes all that is wrong with them. */
class QueryReader {
  constructor(
    private readonly given: URLSearchParams,
    private readonly violations: Violations,
  ) {}

  /** A filter with a typo would silently match everything. */
  refuseUnknown(): void {
    for (const name of new Set(this.given.keys())) {
      if (PARAMETERS.includes(name)) continue;
      this.violations.add(truncate(name, 64), `unknown parameter; there are: ${PARAMETERS.join(', ')}`);
    }
  }

  list(name: string): string[] {
    return this.given.getAll(name);
  }

  /** '' when it is absent. */
  text(name: string): string {
    const [value = '', ...more] = this.list(name);
    if (more.length > 0) this.violations.add(name, 'must be given once');
    return value;
  }

  flag(name: string): boolean {
    const value = this.text(name);
    const isSet = this.given.has(name);
    if (isSet && value !== 'true' && value !== 'false') this.violations.add(name, 'must be true or false');
    return value === 'true';
  }

  /** Seconds, with a fraction or not and with an `s` behind or not. */
  duration(name: string): Pick<Duration, 'seconds' | 'nanos'> | undefined {
    const value = this.text(name);
    if (!this.given.has(name)) return undefined;
    const [, seconds, fraction = ''] = /^(\d{1,9})(?:\.(\d{1,9}))?s?$/.exec(value) ?? [];
    if (seconds === undefined) {
      this.violations.add(name, 'must be a number of seconds, as in 10 or 10s');
      return undefined;
    }
    return { seconds: BigInt(seconds), nanos: Number(fraction.padEnd(9, '0')) };
  }

  /** `PENDING` or, as the API writes it, `RUN_STATE_PENDING`. */
  states(name: string): RunState[] {
    return this.list(name).flatMap((value, index) => {
      const state = RUN_STATES.find((known) => value === known || value === `RUN_STATE_${known}`);
      if (state !== undefined) return [RunState[state]];
      this.violations.add(`${name}[${index}]`, `must be one of ${RUN_STATES.join(', ')}`);
      return [];
    });
  }

  /** `key=value`; the value may hold further equals signs. */
  labels(name: string): Record<string, string> {
    const labels = new Map<string, string>();
    this.list(name).forEach((text, index) => {
      const end = text.indexOf('=');
      const key = text.slice(0, end);
      if (end < 0) this.violations.add(`${name}[${index}]`, 'must be key=value');
      else if (labels.has(key))
        this.violations.add(`${name}[${index}]`, 'repeats a key; all labels must match');
      else labels.set(key, text.slice(end + 1));
    });
    return Object.fromEntries(labels);
  }
}
