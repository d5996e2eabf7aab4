/** What the kept plans of statements rest on; kept_plans.test.ts counts pages. */
import { edit, type Mutant } from './mutant.js';

const CREATE = 'dist/src/store/sql/create_runs.js';
const UPDATE = 'dist/src/store/sql/update_runs.js';
const FIND_CLAIMS = 'dist/src/store/sql/find_claims.js';
const EVENTS = 'dist/src/store/sql/read_events.js';
const KEY_SQL = 'dist/src/store/key_sql.js';

const OF_TRIGGERS = 'of triggers are right for a batch, although one run was changed when they were made';

/** A mutant that reads all of a table, although of that there was one row when the plan was made. */
const mutant = (name: string, ...edits: Mutant['edits']): Mutant => ({
  name,
  edits,
  testFile: 'db/kept_plans',
  caughtBy: 'are right for many runs and pipelines, although there was one run when they were made',
});

export const PLAN_MUTANTS: readonly Mutant[] = [
  mutant(
    'a batch is free to meet its runs by reading all of them',
    edit(KEY_SQL, '${column} = any (array[${value}])', '${column} = ${value}'),
  ),
  mutant(
    'a batch of creates is free to meet its pipelines by reading all of them',
    edit(CREATE, 'p.name = n.name offset 0', 'p.name = n.name'),
  ),
  mutant(
    'a batch of reports is free to meet its pipelines by reading all of them',
    edit(UPDATE, 's.name = r.stage offset 0', 's.name = r.stage'),
    edit(UPDATE, 'p.name = r.pipeline offset 0', 'p.name = r.pipeline'),
    edit(UPDATE, '    end\n    offset 0\n', '    end\n'),
  ),
  mutant(
    'a page of events is free to meet its runs by reading all of them',
    edit(EVENTS, 'r.id = e.run_id offset 0', 'r.id = e.run_id'),
  ),
  mutant(
    'a claim is free to look for its request among all runs at work',
    edit(
      FIND_CLAIMS,
      'and coalesce(\n      r.worker_id = i.worker_id and r.pipeline = i.pipeline and r.stage = i.stage, false)',
      "and r.worker_id = i.worker_id and r.pipeline = i.pipeline and r.stage = i.stage and r.state = 'ACTIVE'",
    ),
  ),
  {
    name: 'what was changed meets what it was row by row, to be appended',
    edits: [],
    functionEdit: { name: 'baton.runs_append_updated', from: "SET enable_nestloop TO 'off'", to: '' },
    testFile: 'db/kept_plans',
    caughtBy: OF_TRIGGERS,
  },
  {
    name: 'what was changed meets what it was row by row, to be admitted',
    edits: [],
    functionEdit: {
      name: 'baton.runs_admit_updated',
      from: 'where (n.id, n.status) not in (select o.id, o.status from old_runs o)',
      to: 'join old_runs o on o.id = n.id where n.status <> o.status',
    },
    testFile: 'db/kept_plans',
    caughtBy: OF_TRIGGERS,
  },
];
