import pg from 'pg';

const CHECK_VIOLATION = '23514';

/** Whether a statement was refused by this named constraint; the triggers of the schema name theirs too. */
export function violates(error: unknown, constraint: string): boolean {
  return (
    error instanceof pg.DatabaseError && error.code === CHECK_VIOLATION && error.constraint === constraint
  );
}
