import type { Logger } from '../base/log.js';
import { SharedRead } from '../base/shared_read.js';
import type { Queryable } from '../store/pool.js';
import { identifyLog } from '../store/sql/identify_log.js';

/** Sees to it that a restored, copied or promoted database does not go on under the epoch of the one it came from. */
export class LogIdentity {
  readonly #db: Queryable;
  readonly #log: Logger;
  /** Shared: after a restart thousands of streams come back with a token each. */
  readonly #check = new SharedRead(() => this.#look());
  #hasTold = false;

  constructor(db: Queryable, log: Logger) {
    this.#db = db;
    this.#log = log;
  }

  /** To be done before any token is compared with the log, and whenever the database may have become another one. */
  check(): Promise<void> {
    return this.#check.get();
  }

  async #look(): Promise<void> {
    const { outcome, systemIsKnown } = await identifyLog(this.#db);
    if (outcome === 'epoch') {
      this.#log.warn(
        'this database is a copy or was restored: its log has a new epoch, and older tokens are refused',
      );
    } else if (outcome === 'timeline') {
      this.#log.warn(
        'this database has begun a new timeline: tokens of changes that it never received are refused',
      );
    }
    if (systemIsKnown || this.#hasTold) return;
    this.#hasTold = true;
    this.#log.warn(
      'this role may not call pg_control_system(): a dump that was restored into another cluster may be taken for ' +
        'the database it is from',
    );
  }
}
