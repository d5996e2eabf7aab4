import type { Queryable } from '../../src/store/pool.js';
import type { TestDatabase } from '../support/database.js';
import {
  checkCommitOrder,
  checkCommitOrderOfStatements,
  checkDoorbell,
  checkIdleWriterHidesNothing,
  checkPlainSqlIsWatched,
} from '../support/log_checks.js';

/** A named way to break the log, and the check that has to notice it. */
export interface LogMutant {
  readonly name: string;
  /** Which guarantee is gone with it. */
  readonly breaks: string;
  apply(db: Queryable): Promise<void>;
  readonly caughtBy: (db: TestDatabase) => Promise<unknown>;
}

const LOCK = 'perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);';
const NEXT = `pg_catalog.nextval('baton.revision')`;

/** Rewrites a function's text; fails when the text to replace is not there, so that no mutant is a no-op. */
export function rewrite(name: string, ...edits: (readonly [from: string, to: string])[]) {
  return async (db: Queryable): Promise<void> => {
    const [row] = await db.query<{ text: string }>('select pg_get_functiondef($1::regproc) as text', [name]);
    let text = row?.text ?? '';
    for (const [from, to] of edits) {
      if (!text.includes(from)) throw new Error(`${name} has no ${JSON.stringify(from)} to mutate`);
      text = text.replace(from, () => to);
    }
    await db.query(text);
  };
}

const append = 'baton.runs_append_event';

export const LOG_MUTANTS: readonly LogMutant[] = [
  {
    name: 'no_lock',
    breaks: 'revisions follow the order of commits',
    apply: rewrite(append, [LOCK, '']),
    caughtBy: checkCommitOrder,
  },
  {
    name: 'no_lock_for_created',
    breaks: 'revisions follow the order of commits, for the statements of the server too',
    apply: rewrite('baton.runs_append_created', [LOCK, '']),
    caughtBy: checkCommitOrderOfStatements,
  },
  {
    name: 'no_lock_for_updated',
    breaks: 'revisions follow the order of commits, for the statements of the server too',
    apply: rewrite('baton.runs_append_updated', [LOCK, '']),
    caughtBy: checkCommitOrderOfStatements,
  },
  {
    name: 'number_before_lock',
    breaks: 'revisions follow the order of commits',
    apply: rewrite(
      append,
      ['kind baton.event_type;', `kind baton.event_type; number constant bigint := ${NEXT};`],
      [`${NEXT}, kind`, 'number, kind'],
    ),
    caughtBy: checkCommitOrder,
  },
  {
    name: 'lock_released_before_commit',
    breaks: 'revisions follow the order of commits',
    apply: rewrite(
      append,
      [LOCK, LOCK.replace('_xact_lock', '_lock')],
      ['return null', `${LOCK.replace('_xact_lock', '_unlock')} return null`],
    ),
    caughtBy: checkCommitOrder,
  },
  {
    name: 'sequence_with_cache',
    breaks: 'revisions follow the order of commits',
    apply: async (db) => void (await db.query('alter sequence baton.revision cache 20')),
    caughtBy: checkCommitOrder,
  },
  {
    name: 'immediate_trigger',
    breaks: 'an idle writer blocks nobody',
    apply: async (db) => {
      for (const event of ['insert', 'update']) {
        const condition = event === 'update' ? 'when (new.version <> old.version)' : '';
        await db.query(`drop trigger runs_append_event_on_${event} on baton.runs`);
        await db.query(
          `create trigger runs_append_event_on_${event} after ${event} on baton.runs
           for each row ${condition} execute function baton.runs_append_event()`,
        );
      }
    },
    caughtBy: checkIdleWriterHidesNothing,
  },
  {
    name: 'plain_sequence_in_before_trigger',
    breaks: 'the event of an idle writer comes with its commit, after those before',
    apply: async (db) => {
      await rewrite(append, [LOCK, ''], ['return null', 'return new'])(db);
      await db.query('drop trigger runs_append_event_on_insert on baton.runs');
      await db.query('drop trigger runs_append_event_on_update on baton.runs');
      await db.query(
        `create trigger zz_append before insert or update on baton.runs
         for each row execute function baton.runs_append_event()`,
      );
    },
    caughtBy: checkIdleWriterHidesNothing,
  },
  {
    name: 'version_not_counted',
    breaks: 'every change of a run has a version of its own',
    apply: rewrite('baton.runs_before_write', ['old.version + 1', 'old.version']),
    caughtBy: checkPlainSqlIsWatched,
  },
  {
    name: 'event_of_now',
    breaks: 'an event shows the run as it was then',
    apply: rewrite(append, [LOCK, `select r.* into new from baton.runs r where r.id = new.id; ${LOCK}`]),
    caughtBy: checkPlainSqlIsWatched,
  },
  {
    name: 'lease_extension_is_an_event',
    breaks: 'extending a lease alone is no change',
    apply: async (db) => {
      await db.query('drop trigger runs_before_update on baton.runs');
      await db.query(
        `create trigger runs_before_update before update on baton.runs
         for each row execute function baton.runs_before_write()`,
      );
      await rewrite('baton.runs_before_write', [
        ') then return new; end if;',
        ') and false then return new; end if;',
      ])(db);
    },
    caughtBy: checkPlainSqlIsWatched,
  },
  {
    name: 'updates_not_watched',
    breaks: 'an UPDATE by plain SQL is an event',
    apply: async (db) => void (await db.query('drop trigger runs_append_event_on_update on baton.runs')),
    caughtBy: checkPlainSqlIsWatched,
  },
  {
    name: 'no_notify',
    breaks: 'every commit rings the doorbell',
    apply: rewrite(append, [`perform pg_catalog.pg_notify('baton_log', '');`, '']),
    caughtBy: checkDoorbell,
  },
  {
    name: 'notify_with_payload',
    breaks: 'the doorbell rings once a transaction and carries nothing',
    apply: rewrite(append, [`pg_notify('baton_log', '')`, `pg_notify('baton_log', new.id::text)`]),
    caughtBy: checkDoorbell,
  },
];
