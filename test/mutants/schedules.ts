import { edit, type Mutant } from './mutant.js';

const SCHEDULES = 'dist/src/service/schedules.js';
const RULES = 'dist/src/service/schedule_rules.js';
const LOCK = 'dist/src/store/sql/lock_due_schedules.js';
const CREATE = 'dist/src/store/sql/create_scheduled_runs.js';

const SERVER_TIME = 'new Date(Date.now())';
const CLOCK = 'the clock of a server has no say in when a tick comes';

const BROKEN: readonly Omit<Mutant, 'testFile'>[] = [
  {
    // With one of the two alone, a tick still has one run.
    name: 'schedules are taken without a lock, and their runs have no request id',
    edits: [
      edit(LOCK, 'for key share of p skip locked\nfor update of s skip locked', ''),
      edit(CREATE, 'i.tick, i.request_id\nfrom', 'i.tick, null\nfrom'),
    ],
    caughtBy: 'two servers that look at once make a tick once',
  },
  {
    name: 'a schedule moves on in a transaction after that of its run',
    edits: [
      edit(SCHEDULES, 'await moveSchedules(tx, plan.ticks);', 'this.late = plan.ticks;'),
      edit(
        SCHEDULES,
        'this.createdRuns += created;',
        'this.createdRuns += created;\n        if (created > 0) await moveSchedules(this.#options.pool, this.late);',
      ),
    ],
    caughtBy: 'a connection that breaks between a run and its schedule leaves neither',
  },
  {
    name: 'missed ticks are all made',
    edits: [edit(SCHEDULES, '> LIMITS.tickMissedMs', '> Infinity')],
    caughtBy: 'of missed ticks the latest has a run, and those before it have none',
  },
  {
    name: 'late ticks are taken for missed ones',
    edits: [edit(SCHEDULES, '> LIMITS.tickMissedMs', '> 0')],
    caughtBy: 'ticks that are only late have a run each',
  },
  {
    name: 'the next tick is reckoned from the clock of the server',
    edits: [edit(SCHEDULES, 'nextTick(cron, timeZone, time)', `nextTick(cron, timeZone, ${SERVER_TIME})`)],
    caughtBy: CLOCK,
  },
  {
    name: 'the first tick is reckoned from the clock of the server',
    edits: [edit(RULES, 'nextTick(cron, timeZone, now)', `nextTick(cron, timeZone, ${SERVER_TIME})`)],
    caughtBy: CLOCK,
  },
  {
    name: 'the latest tick is reckoned from the clock of the server',
    edits: [edit(SCHEDULES, 'latestTick(cron, timeZone, now)', `latestTick(cron, timeZone, ${SERVER_TIME})`)],
    caughtBy: CLOCK,
  },
  {
    name: 'a schedule that is put again starts anew',
    edits: [edit(RULES, 'before !== undefined && before.cron === cron', 'false && before.cron === cron')],
    caughtBy: 'a definition that is put again neither skips nor doubles a tick',
  },
  {
    name: 'a schedule with another cron keeps its next tick',
    edits: [edit(RULES, ' && before.cron === cron', '')],
    caughtBy: 'a definition that is put again neither skips nor doubles a tick',
  },
  {
    name: 'a schedule is locked before its pipeline',
    edits: [
      edit(LOCK, 'for key share of p skip locked\n', ''),
      edit(SCHEDULES, 'await lockDuePipelines(tx, step.limit);', ''),
    ],
    caughtBy: 'a tick that meets a definition under way holds nothing that it needs, and others come first',
  },
  {
    name: 'a pipeline that is being redefined is only ever passed over',
    edits: [edit(SCHEDULES, 'patient = true;', 'return;')],
    caughtBy: 'a tick that meets a definition under way holds nothing that it needs, and others come first',
  },
  {
    name: 'one refused run takes the others along',
    edits: [edit(SCHEDULES, 'step.taken.length === 0 || !isOfOneRun(error, step)', 'true')],
    caughtBy: 'a schedule that cannot be read, or whose run is refused, stops no other',
  },
  {
    name: 'a transaction that stands still keeps its schedules',
    // Either bound is enough for the promise: that of ticks, and the longer one of every transaction.
    edits: [
      edit(SCHEDULES, 'await boundTransaction(tx, BOUNDS);', ''),
      edit('dist/src/store/pool.js', `begin; set local idle_in_transaction_session_timeout = '5s'`, 'begin'),
    ],
    caughtBy: 'a server that is cut off in the middle of a tick does not keep it',
  },
  {
    name: 'a wait for a request id is taken for a lost database',
    edits: [edit(SCHEDULES, 'return inserting && ', 'return false && ')],
    caughtBy: 'a request id that somebody holds in an open transaction stops no other tick',
  },
  {
    name: 'a wait for the log is taken for the fault of a schedule',
    edits: [edit(SCHEDULES, 'return inserting && ', 'return ')],
    caughtBy: 'a tick whose commit has to wait too long for the log is made by the next sweep',
  },
];

/** Ways to make a tick twice, not at all or at another time. */
export const SCHEDULE_MUTANTS: readonly Mutant[] = BROKEN.map((mutant) => ({
  ...mutant,
  testFile: 'server/schedules',
}));
