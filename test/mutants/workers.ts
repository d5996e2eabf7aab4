import { edit, type Mutant } from './mutant.js';

const WORKERS = 'server/mutants_workers';
const UPDATE = 'dist/src/store/sql/update_runs.js';
const LEASE_SQL = 'dist/src/store/lease_sql.js';
const RELEASE = 'dist/src/store/sql/release_claims.js';
const CLAIM = 'dist/src/store/sql/claim_runs.js';
const EXPIRE = 'dist/src/store/sql/expire_leases.js';
const FIND_CLAIMS = 'dist/src/store/sql/find_claims.js';
const CLAIM_QUEUE = 'dist/src/service/claim_queue.js';
const CLAIMS = 'dist/src/service/claims.js';
const SERVICE = 'dist/src/service/service.js';
const OWN_WORK = 'dist/src/watch/own_work.js';
const UPDATE_GROUP = 'dist/src/service/update_group.js';
const UPDATE_AND_CLAIM = 'dist/src/store/sql/update_and_claim.js';
const FENCE = 'r.lease_number = i.lease_number and r.lease_id = i.lease_id';

const CLOCKS = 'a server whose clock is an hour ahead gives whole leases and ends none';

export const WORKER_MUTANTS: readonly Mutant[] = [
  {
    // The token holds the run and the attempt, and that is what it is compared with.
    name: 'the attempt is the fence',
    edits: [
      edit(
        CLAIM,
        '{ number: row.lease_number, id: row.lease_id }',
        '{ number: BigInt(row.attempt), id: row.id }',
      ),
      edit(LEASE_SQL, FENCE, 'r.attempt = i.lease_number and r.id = i.lease_id'),
    ],
    testFile: WORKERS,
    caughtBy: 'a token from before a hand-back is worth nothing, though the attempt is the same',
  },
  {
    name: 'no fence',
    edits: [edit(LEASE_SQL, FENCE, 'true')],
    testFile: WORKERS,
    caughtBy: 'a token of an ended lease changes nothing while another worker holds the run',
  },
  {
    name: 'a hand-back goes by the run and not by the lease',
    edits: [edit(RELEASE, FENCE, 'true')],
    testFile: WORKERS,
    caughtBy: 'a hand-back of a lease that is over leaves the next holder alone',
  },
  {
    name: 'a hand-back costs the attempt',
    edits: [edit(RELEASE, 'greatest(r.attempt - 1, 0)', 'r.attempt')],
    testFile: 'db/statements',
    caughtBy: 'releaseClaims hands back what is still held, and the claim costs no attempt',
  },
  {
    name: 'a worker that hands back pays an attempt',
    edits: [
      edit(
        UPDATE,
        "when plan.action = 'RELEASE' then greatest(r.attempt - 1, 0)",
        "when plan.action = 'RELEASE' then r.attempt",
      ),
    ],
    testFile: 'db/statements',
    caughtBy: 'cancels, hands back without an attempt, and reports progress',
  },
  {
    name: 'a hand-back forgets that a cancel was asked for',
    edits: [
      edit(
        RELEASE,
        'case when r.cancel_requested then p.canceled_status else s.waiting_status end',
        's.waiting_status',
      ),
    ],
    testFile: WORKERS,
    caughtBy: 'a run whose cancel was asked for is canceled when its claim is handed back',
  },
  {
    name: 'limits are counted without the lock of the stage',
    edits: [edit('dist/src/store/sql/stage_room.js', 'await tx.query(LOCK, [pipeline, stage]);', '')],
    testFile: WORKERS,
    caughtBy: 'claims of a limited stage that meet on two servers do not count the same',
  },
  {
    name: `leases end by the server's clock`,
    edits: [
      edit(
        EXPIRE,
        'r.lease_expire_time <= (select clock_timestamp())',
        'r.lease_expire_time <= $2::timestamptz',
      ),
      edit(EXPIRE, 'db.query(SQL, [limit])', 'db.query(SQL, [limit, new Date()])'),
    ],
    testFile: WORKERS,
    caughtBy: CLOCKS,
  },
  {
    name: `leases are given by the server's clock`,
    edits: [
      edit(
        'dist/src/store/lease_sql.js',
        '`clock_timestamp() + ',
        "`timestamptz '${new Date().toISOString()}' + ",
      ),
    ],
    testFile: WORKERS,
    caughtBy: CLOCKS,
  },
  {
    name: 'the backoff after an ended lease counts from when that was found out',
    edits: [edit(EXPIRE, 'r.lease_expire_time + ', 'clock_timestamp() + ')],
    testFile: 'db/statements',
    caughtBy: 'a backoff counts from the end of the lease, and no run is claimable before that was found out',
  },
  {
    name: 'the next run that comes due is not looked at',
    edits: [edit('dist/src/service/housekeeping.js', 'if (nextMs !== undefined)', 'if (false)')],
    testFile: 'db/housekeeping',
    caughtBy: 'a waiting call is woken when the next run of its stage comes due',
  },
  {
    name: 'ended leases are waited for that others have in hand',
    edits: [edit(EXPIRE, 'for update of r skip locked', 'for update of r')],
    testFile: WORKERS,
    caughtBy: 'a row in the hands of another transaction does not keep other leases from ending',
  },
  {
    name: 'ended leases are waited for whose pipeline is being redefined',
    edits: [edit(EXPIRE, '  for key share of p skip locked\n', '')],
    testFile: 'db/definitions',
    caughtBy: 'that is left open keeps only its own leases from ending',
  },
  {
    name: 'a lease is extended whose time is over',
    edits: [edit(LEASE_SQL, ' and ${row}.lease_expire_time > clock_timestamp()', '')],
    testFile: WORKERS,
    caughtBy: 'a lease whose time is over is not extended, also before anybody ended it',
  },
  {
    name: 'a lost lease is told without waiting for a change under way',
    edits: [edit('dist/src/store/lease_sql.js', `wait: 'for update'`, `wait: ''`)],
    testFile: WORKERS,
    caughtBy: 'nobody is told of a lost lease while an earlier copy of the call may still commit',
  },
  {
    name: 'a cancel ends what is at work at once',
    edits: [
      edit(
        'dist/src/store/sql/cancel_runs.js',
        "case when r.state = 'PENDING' then p.canceled_status else r.status end",
        'p.canceled_status',
      ),
    ],
    testFile: 'server/workers',
    caughtBy: 'CancelRun: what waits ends at once, a worker is told, what has ended stays',
  },
  {
    name: 'a retry keeps the attempts of before',
    edits: [],
    functionEdit: { name: 'baton.runs_before_write', from: 'new.attempt := 0;', to: '' },
    testFile: 'server/workers',
    caughtBy: 'RetryRun: waits again for the stage in which it ended, or for another one',
  },
  {
    name: 'a move does not hold the definition',
    edits: [],
    functionEdit: {
      name: 'baton.runs_before_write',
      from: 'perform from baton.pipelines p where p.name = new.pipeline for key share;',
      to: '',
    },
    testFile: WORKERS,
    caughtBy: 'a definition is not replaced while a transaction moves a run by the old one',
  },
  {
    name: 'a run keeps the number of attempts with which it came to its stage',
    edits: [
      edit(
        'dist/src/store/sql/claim_runs.js',
        'attempts_allowed = coalesce(r.max_attempts, stage.max_attempts),',
        '',
      ),
    ],
    testFile: 'db/definitions',
    caughtBy: 'gives more attempts, or fewer, to runs that are in the stage already',
  },
  {
    name: 'the trigger derives something else than the statements',
    edits: [],
    functionEdit: {
      name: 'baton.runs_before_write',
      from: 'new.attempts_allowed := coalesce(new.max_attempts, meaning.max_attempts, new.attempts_allowed);',
      to: '',
    },
    testFile: 'db/derived',
    caughtBy: 'is the same by the statements of the server and by the trigger for all SQL',
  },
  {
    name: 'a statement derives something else than the trigger',
    edits: [
      edit(
        'dist/src/store/sql/update_runs.js',
        'when ${ENDS} then coalesce(r.start_time, plan.time) else r.start_time end',
        'when ${ENDS} then plan.time else r.start_time end',
      ),
    ],
    testFile: 'db/derived',
    caughtBy: 'is the same by the statements of the server and by the trigger for all SQL',
  },
  {
    name: 'what a statement says of a status is not looked at again',
    edits: [],
    functionEdit: {
      name: 'baton.runs_admit_updated',
      from: 'perform baton.refuse_status(',
      to: 'perform (',
    },
    testFile: 'db/definitions',
    caughtBy: 'is what every move goes by, also one that began before it was committed',
  },
  {
    name: 'what a statement says of a status is looked at without the lock of the definition',
    edits: [],
    functionEdit: { name: 'baton.runs_admit_updated', from: 'for key share;', to: ';' },
    testFile: 'db/definitions',
    caughtBy: 'is what every move goes by, also one that began before it was committed',
  },
  {
    name: 'a definition makes waiting runs ACTIVE',
    edits: [
      edit(
        'dist/src/store/sql/put_pipeline.js',
        "(m.status is null or (m.state = 'ACTIVE') <> (r.state = 'ACTIVE'))",
        'm.status is null',
      ),
    ],
    testFile: 'db/definitions',
    caughtBy: 'is refused where it would take a run from its worker, or make one ACTIVE that nobody has',
  },
  {
    name: 'a pause of a stage does not wait for a definition',
    edits: [
      edit(
        'dist/src/service/pipelines.js',
        "!(await pausePipeline(tx, name, stage === '' ? paused : undefined))",
        "stage === '' && !(await pausePipeline(tx, name, paused))",
      ),
    ],
    testFile: 'db/definitions',
    caughtBy: 'neither loses a pause of a stage that comes at the same time, nor refuses it',
  },
  {
    name: 'each new call looks although others wait',
    edits: [edit(CLAIM_QUEUE, 'return queue.parked.size > 0 &&', 'return false &&')],
    testFile: 'server/waiting_claims',
    caughtBy: 'a call that may wait behind others does not look, and is answered like them',
  },
  {
    name: 'claim_next claims in a transaction of its own',
    edits: [
      edit(UPDATE_GROUP, 'targets.length === 0)', 'targets.length >= 0)'),
      edit(UPDATE_GROUP, 'key === undefined || next.isLimited(key)', 'true'),
    ],
    testFile: 'db/claim_next',
    caughtBy: 'reports and claims are one transaction, and one for many workers',
  },
  {
    name: 'claim_next does not look for the run that goes into its own stage',
    edits: [edit(UPDATE_AND_CLAIM, `planned.to_state = 'PENDING'`, 'false')],
    testFile: 'db/claim_next',
    caughtBy: 'a worker goes on with the run that it has just moved into the stage it claims from',
  },
  {
    name: 'claim_next ignores what its request_id holds',
    edits: [edit(UPDATE_AND_CLAIM, `(want.request_id <> '' and exists`, `(want.request_id = '' and exists`)],
    testFile: 'db/claim_next',
    caughtBy: 'a request_id that holds claims gives these, and no others',
  },
  {
    name: 'claim_next ignores limits',
    edits: [
      edit(UPDATE_AND_CLAIM, 'not known.stage_known or known.stage_limited', 'not known.stage_known'),
      edit(UPDATE_AND_CLAIM, `stageSql('$14', '$15', NO_LIMITS)`, `stageSql('$14', '$15', 'true')`),
      edit(UPDATE_GROUP, 'key === undefined || next.isLimited(key)', 'key === undefined'),
    ],
    testFile: 'db/claim_next',
    caughtBy: 'limits hold, also those that a stage has got or lost since',
  },
  {
    name: 'an update that is refused claims all the same',
    edits: [edit(UPDATE_AND_CLAIM, 'join plan on plan.position = want.position', '')],
    testFile: 'db/claim_next',
    caughtBy: 'who is refused gets no claim, and the others get theirs',
  },
  {
    name: 'a call that is gone keeps back those that repeat it',
    edits: [
      edit(
        CLAIM_QUEUE,
        'if (!waiter.open) {',
        "if (!waiter.open) {\n repeatable.add(`${waiter.slot.requestId ?? ''} ${waiter.slot.workerId}`);",
      ),
    ],
    testFile: 'server/workers',
    caughtBy: 'a ClaimNext that repeats one which ended in the same moment is answered',
  },
  {
    name: 'what a server has committed wakes nobody before the log does',
    edits: [edit(CLAIMS, 'if (run.error === undefined && ownWork.add(run))', 'if (false)')],
    testFile: 'server/own_work',
    caughtBy: 'wakes whoever is parked without the log, and nobody for what is not due or waits elsewhere',
  },
  {
    name: 'what is not due wakes whoever waits',
    edits: [edit(CLAIMS, "run.state === 'PENDING' && !comesLater(run)", "run.state === 'PENDING'")],
    testFile: 'server/own_work',
    caughtBy: 'wakes whoever is parked without the log, and nobody for what is not due or waits elsewhere',
  },
  {
    name: 'the log tells of own work again',
    edits: [edit(OWN_WORK, 'return this.#keys.has(key)', 'return false')],
    testFile: 'server/own_work',
    caughtBy: 'is not told by the log again, without a live stream',
  },
  {
    name: 'own work is remembered for ever',
    edits: [edit(OWN_WORK, 'this.#keys.delete(key)', '{}')],
    testFile: 'server/own_work',
    caughtBy: 'is not told by the log again, without a live stream',
  },
  {
    name: 'every claim is followed by another look',
    edits: [edit(CLAIM_QUEUE, 'unsure || found > work || queue.limited', 'true')],
    testFile: 'server/waiting_claims',
    caughtBy: 'each run answers exactly one of 2,000 calls on two servers, and wakes no more',
  },
  {
    name: 'nobody looks whether there is more',
    edits: [edit(CLAIM_QUEUE, 'unsure || found > work || queue.limited', 'false')],
    testFile: 'db/housekeeping',
    caughtBy: 'one look is enough for all runs that come due together',
  },
  {
    name: 'a text or a transaction of the server itself rings nobody',
    edits: [edit(SERVICE, "if (hub.demand === 'none')\n            tail.ring();", '')],
    testFile: 'server/own_work',
    caughtBy: 'wakes whoever waits, without a regular look at the log: RetryRun',
  },
  {
    name: 'a failure that may be tried again at once is told to nobody',
    edits: [edit(CLAIMS, 'untold = true;', '{}')],
    testFile: 'server/own_work',
    caughtBy:
      'wakes whoever waits, without a regular look at the log: a failure that may be tried again at once',
  },
  {
    name: 'room that a server makes itself is told to nobody',
    edits: [edit(CLAIMS, 'untold || this.#roomIsAwaited()', 'untold')],
    testFile: 'server/own_work',
    caughtBy: 'wakes whoever waits, without a regular look at the log: room in a stage with a limit',
  },
  {
    name: 'what a server commits itself does not ring for its streams',
    edits: [edit(SERVICE, "isOwn && hub.demand === 'none'", 'isOwn')],
    testFile: 'server/own_work',
    caughtBy: 'reaches a live stream without a regular look at the log',
  },
  {
    name: 'the request_id of ClaimNext is ignored',
    edits: [edit(FIND_CLAIMS, "keys.every(({ requestId }) => requestId === '')", 'true')],
    testFile: 'server/workers',
    caughtBy: 'ClaimNext with a request_id gives the same claims again while they live',
  },
];
