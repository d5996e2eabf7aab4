import type { Pool, Queryable } from '../../src/store/pool.js';

interface PlanNode {
  readonly 'Node Type': string;
  readonly 'Relation Name'?: string;
  readonly 'Actual Rows': number;
  readonly 'Actual Loops': number;
  readonly 'Rows Removed by Filter'?: number;
  readonly 'Shared Hit Blocks': number;
  readonly 'Shared Read Blocks': number;
  readonly Plans?: readonly PlanNode[];
}

class RolledBack extends Error {}

function rowsIn(node: PlanNode, table: string): number {
  // A partition has its place after the name of its table.
  const name = node['Relation Name']?.replace(/_(p\d+|default)$/, '');
  const scans = name === table && node['Node Type'].endsWith('Scan');
  const own = scans
    ? (node['Actual Rows'] + (node['Rows Removed by Filter'] ?? 0)) * node['Actual Loops']
    : 0;
  return (node.Plans ?? []).reduce((sum, plan) => sum + rowsIn(plan, table), own);
}

/** Runs the statements of `work` for their plans only: nothing of it is committed, and no statement gives a row. */
async function plansOf(pool: Pool, work: (db: Queryable) => Promise<unknown>): Promise<PlanNode[]> {
  const plans: PlanNode[] = [];
  const explained = pool.transaction(async (tx) => {
    await work({
      commits: false,
      async query(statement, values) {
        const text = typeof statement === 'string' ? statement : statement.text;
        const [row] = await tx.query<{ 'QUERY PLAN': { Plan: PlanNode }[] }>(
          `explain (analyze, buffers, format json, timing off) ${text}`,
          values,
        );
        plans.push(...(row?.['QUERY PLAN'] ?? []).map(({ Plan }) => Plan));
        return [];
      },
    });
    throw new RolledBack();
  });
  await explained.catch((error: unknown) => {
    if (!(error instanceof RolledBack)) throw error;
  });
  return plans;
}

/**
 * How many rows of a table the statements of `work` look at. Counted and not timed, so that a plan which reads a
 * whole table is found with few rows on any machine.
 */
export async function rowsVisited(
  pool: Pool,
  work: (db: Queryable) => Promise<unknown>,
  table = 'runs',
): Promise<number> {
  return (await plansOf(pool, work)).reduce((sum, plan) => sum + rowsIn(plan, table), 0);
}

/** How many pages the statements of `work` look at: dead rows count here. */
export async function buffersVisited(pool: Pool, work: (db: Queryable) => Promise<unknown>): Promise<number> {
  const plans = await plansOf(pool, work);
  return plans.reduce((sum, plan) => sum + plan['Shared Hit Blocks'] + plan['Shared Read Blocks'], 0);
}

/** Fills the table without the log, which is not what is measured and takes most of the time. */
export async function bulkInsert(pool: Pool, runs: number): Promise<void> {
  await pool.transaction(async (tx) => {
    await tx.query('alter table baton.runs disable trigger runs_append_event_on_insert');
    await tx.query('insert into baton.runs (priority) select g % 3 from generate_series(1, $1::int) g', [
      runs,
    ]);
    await tx.query('alter table baton.runs enable trigger runs_append_event_on_insert');
  });
  await pool.query('analyze baton.runs');
}
