import type { RunFilter } from '../run/filter.js';

/**
 * The predicate of a filter over an alias of `baton.runs`, in seven parameters from `$first` on; `filterValues` gives
 * them. It says the same as `matchesRun`, which a test holds.
 */
export function filterPredicate(alias: string, first: number): string {
  const list = (offset: number, column: string, type: string): string =>
    `(cardinality($${first + offset}::text[]) = 0 or ${alias}.${column} = any ($${first + offset}::text[]::${type}[]))`;
  return [
    list(0, 'id', 'uuid'),
    list(1, 'pipeline', 'text'),
    list(2, 'stage', 'text'),
    list(3, 'status', 'text'),
    list(4, 'state', 'baton.run_state'),
    `($${first + 5}::text = '' or ${alias}.repository = $${first + 5}::text)`,
    `${alias}.labels @> $${first + 6}::jsonb`,
  ].join('\n    and ');
}

export function filterValues(filter: RunFilter): unknown[] {
  return [
    filter.runIds,
    filter.pipelines,
    filter.stages,
    filter.statuses,
    filter.states,
    filter.repository,
    JSON.stringify(filter.labels),
  ];
}
