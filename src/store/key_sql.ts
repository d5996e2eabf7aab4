/**
 * Whether a row has this key, for a statement that changes rows by a list and keeps its plan. Such a plan has to be right for
 * every size of the table, also where it was made when that was small: with `=` the planner may then read all of the
 * table in the order of the key, to meet the list, and does so for as long as it keeps the plan (a claim behind 16,000 runs: 25 ms
 * and 5,000 pages, where it was 1.5 ms and 180). An array of one is looked up in the index and is nothing to merge or hash by.
 *
 * Where nothing is changed, a lateral subquery with `offset 0` does the same.
 */
export function hasKey(column: string, value: string): string {
  return `${column} = any (array[${value}])`;
}
