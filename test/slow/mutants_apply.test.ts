/**
 * That every mutant still finds what it breaks: the code changes, and a way to break it that no longer applies proves
 * nothing. Whether the tests notice is what `npm run mutants` tells, which takes too long to be run each time.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { describeOnEveryPostgres } from '../support/database.js';
import { fresh } from '../support/log_runs.js';
import { ALL_MUTANTS } from '../mutants/all.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

void test('every mutant finds the text that it changes, once', async () => {
  const stale: string[] = [];
  for (const { name, edits } of ALL_MUTANTS) {
    for (const { file, from } of edits) {
      const found = (await readFile(join(ROOT, file), 'utf8')).split(from).length - 1;
      if (found !== 1) stale.push(`${name}: ${file} has its text ${found} times`);
    }
  }
  assert.deepEqual(stale, []);
});

describeOnEveryPostgres('a mutant of a function of the schema', (open) => {
  void test(
    'finds the text that it changes',
    fresh(open, async (db) => {
      const stale: string[] = [];
      for (const { name, functionEdit } of ALL_MUTANTS) {
        if (functionEdit === undefined) continue;
        const [row] = await db.pool.query<{ text: string }>(
          'select pg_get_functiondef($1::regproc) as text',
          [functionEdit.name],
        );
        if (row?.text.includes(functionEdit.from) !== true) stale.push(`${name}: ${functionEdit.name}`);
      }
      assert.deepEqual(stale, []);
    }),
  );
});
