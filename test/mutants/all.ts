import { ANSWER_MUTANTS } from './answers.js';
import { CLIENT_WORKER_MUTANTS } from './client_worker.js';
import { DATABASE_MUTANTS } from './databases.js';
import { FLOOD_MUTANTS } from './flood.js';
import { GROUP_MUTANTS } from './groups.js';
import { HTTP_MUTANTS } from './http.js';
import { JSON_MUTANTS } from './json_rules.js';
import type { Mutant } from './mutant.js';
import { PLAN_MUTANTS } from './plans.js';
import { REQUEST_MUTANTS } from './requests.js';
import { SCHEDULE_MUTANTS } from './schedules.js';
import { TOKEN_MUTANTS } from './tokens.js';
import { VERDICT_MUTANTS } from './verdicts.js';
import { WATCH_MUTANTS } from './watch.js';
import { WORKER_MUTANTS } from './workers.js';

/** All that `npm run mutants` breaks; those of the log are run with its tests. */
export const ALL_MUTANTS: readonly Mutant[] = [
  ...WATCH_MUTANTS,
  ...WORKER_MUTANTS,
  ...CLIENT_WORKER_MUTANTS,
  ...PLAN_MUTANTS,
  ...SCHEDULE_MUTANTS,
  ...GROUP_MUTANTS,
  ...TOKEN_MUTANTS,
  ...REQUEST_MUTANTS,
  ...HTTP_MUTANTS,
  ...JSON_MUTANTS,
  ...ANSWER_MUTANTS,
  ...VERDICT_MUTANTS,
  ...DATABASE_MUTANTS,
  ...FLOOD_MUTANTS,
  ...VERDICT_MUTANTS,
];
