import type pg from 'pg';

/**
 * A statement that runs so often that each connection keeps its plan. Only for texts whose best plan does not depend
 * on the values and finds its rows through indexes, and of which there are few: PostgreSQL keeps a plan for each name and
 * connection. It should not wait for what others have locked, because it shares its connections with all others of its
 * kind.
 */
export interface Statement {
  /** Distinct from that of every other statement. */
  readonly name: string;
  readonly text: string;
}

/** Where a statement can run: on any connection of the pool, or on the one of a transaction. */
export interface Queryable {
  /** Whether each statement is a transaction by itself. */
  readonly commits: boolean;
  /**
   * Runs one statement and returns its rows.
   * @throws BatonError DATABASE_UNAVAILABLE when there is no connection; `pg.DatabaseError` when the statement fails
   */
  query<Row extends pg.QueryResultRow>(statement: string | Statement, values?: unknown[]): Promise<Row[]>;
}
