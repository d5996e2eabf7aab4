import { edit, type Mutant } from './mutant.js';

const CLAIMS = 'dist/src/client/worker_claims.js';
const RENEWALS = 'dist/src/client/worker_renewals.js';
const REPORT = 'dist/src/client/worker_report.js';
const RUN = 'dist/src/client/worker_run.js';
const TICKET = 'dist/src/client/worker_ticket.js';
const WORKER = 'dist/src/client/worker.js';

const STOPS = 'a stop lets handlers finish, and claims nothing meanwhile';
const BUSY = 'a busy worker makes one round trip for each run';

const BROKEN: readonly Omit<Mutant, 'testFile'>[] = [
  {
    name: 'no renewal',
    edits: [edit(RENEWALS, 'isUrgent(held) ? 0 : held.lease.renewMs', 'isUrgent(held) ? 0 : Infinity')],
    caughtBy: 'leases are renewed in one call for all, over several of their lengths, with the news',
  },
  {
    name: 'a lease does not end by the clock of the worker',
    edits: [edit(RUN, `this.abort('lease_expired');`, 'return;')],
    caughtBy: 'a lease ends by the clock of the worker before another can claim',
  },
  {
    name: 'another request id after a lost reply',
    edits: [edit(TICKET, 'requestId: this.#requestId', 'requestId: globalThis.crypto.randomUUID()')],
    caughtBy: 'a reply of ClaimNext that is lost orphans no run',
  },
  {
    name: 'another request id of claim_next after a lost reply',
    edits: [edit(TICKET, 'requestId: this.#requestId', 'requestId: globalThis.crypto.randomUUID()')],
    caughtBy: 'a reply of UpdateStatus that is lost is asked for again, with the claim in it',
  },
  {
    name: 'a claim with the last reports of a worker that stops',
    edits: [
      edit(WORKER, `isStopping || outcome.kind === 'handed_back' ?`, `outcome.kind === 'handed_back' ?`),
    ],
    caughtBy: STOPS,
  },
  {
    name: 'a worker that stops goes on claiming',
    edits: [
      edit(
        CLAIMS,
        'while (!stopping.isSet) {\n            const slots',
        'while (!this.#options.givenUp.isSet) {\n            const slots',
      ),
      edit(CLAIMS, 'ticket.wasSent || !stopping.isSet', 'true'),
    ],
    caughtBy: STOPS,
  },
  {
    name: 'what a call that was ended by a stop has claimed is forgotten',
    edits: [edit(CLAIMS, '(ticket.wasSent || !stopping.isSet)', '!stopping.isSet')],
    caughtBy: 'a stop hands back what a lost reply of ClaimNext has claimed',
  },
  {
    name: 'a lost lease is not told to the handler',
    edits: [edit(RENEWALS, `held.abort('lease_lost');`, ';')],
    caughtBy: 'a lease that was taken away aborts the handler, and its late end changes nothing',
  },
  {
    name: 'a cancel is not told to the handler',
    edits: [edit(RENEWALS, `held.abort('canceled');`, ';')],
    caughtBy: 'a cancel reaches the handler, and the run ends as canceled',
  },
  {
    name: 'what a canceled handler returns is its outcome',
    edits: [edit(RUN, `phase.kind === 'stopped' ? this.#stoppedOutcome(phase.why) : outcome`, 'outcome')],
    caughtBy: 'a cancel reaches the handler, and the run ends as canceled',
  },
  {
    name: 'a stop leaves its runs to the end of their leases',
    edits: [edit(RUN, `if (why === 'stopping')`, `if (why === 'never')`)],
    caughtBy: 'a stop hands back what does not finish, also where the handler does not listen',
  },
  {
    name: 'slots are not taken by the call that claims for them',
    edits: [edit(CLAIMS, 'this.#free = 0;', ';')],
    caughtBy: 'no more runs are claimed than can be started, whatever waits',
  },
  {
    name: 'a report waits for the next run',
    edits: [edit(REPORT, 'ticket.send(0)', 'ticket.send(8000)')],
    caughtBy: BUSY,
  },
  {
    name: 'a report claims nothing',
    edits: [edit(REPORT, 'claimNext: ticket.send(0)', '')],
    caughtBy: BUSY,
  },
  {
    name: 'a report is made once',
    edits: [edit(REPORT, 'await pause(delayMs, givenUp);', 'break;')],
    caughtBy: 'a run outlives a server that is killed and started again',
  },
  {
    name: 'a checkpoint is said to be durable when it was sent',
    edits: [
      edit(
        'dist/src/client/worker_news.js',
        'this.#written.waiters.push({ resolve, reject });',
        'resolve();',
      ),
    ],
    caughtBy: 'a checkpoint is durable when its promise resolves, and handed to the next attempt',
  },
];

/** Ways to break the worker of `baton/client`. */
export const CLIENT_WORKER_MUTANTS: readonly Mutant[] = BROKEN.map((mutant) => ({
  ...mutant,
  testFile: 'server/worker',
}));
