/** Where a URL leads, and what is sent of it; PostgreSQL is not asked here. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { problemOfUrl, sessionConfig } from '../../src/store/session.js';

const at = (databaseUrl: string) => {
  const { host, port, user, database, password } = sessionConfig({ databaseUrl, name: 'test' });
  return { host, port, user, database, password };
};

for (const [url, expected] of [
  ['postgres://u:p%40ss@h:1/db', { host: 'h', port: 1, user: 'u', password: 'p@ss', database: 'db' }],
  ['postgresql://u@/db?host=/var/run/postgresql', { host: '/var/run/postgresql', user: 'u', database: 'db' }],
  ['postgres:///db?host=/tmp&port=5433', { host: '/tmp', port: 5433, database: 'db' }],
  ['postgres://u@%2Fvar%2Frun/db', { host: '/var/run', user: 'u', database: 'db' }],
  ['postgres://u@[::1]:5432/db', { host: '::1', port: 5432, user: 'u', database: 'db' }],
  ['postgresql://h', { host: 'h' }],
] as const)
  test(`session: ${url} leads where it says`, () => {
    assert.equal(problemOfUrl(url), undefined);
    const found = Object.entries(at(url)).filter(([, value]) => value !== undefined && value !== '');
    assert.deepEqual(Object.fromEntries(found), expected);
  });

test("session: the URL's options are kept, and Baton's come behind them", () => {
  const databaseUrl =
    'postgres://h/db?options=-c%20work_mem%3D1MB%20-c%20DateStyle%3DGerman&application_name=mine';
  const direct = sessionConfig({ databaseUrl, name: 'test', settings: { lock_timeout: '3000' } });
  assert.match(direct.options ?? '', /^-c work_mem=1MB -c DateStyle=German .*-c DateStyle=ISO,\\ MDY/);
  assert.match(direct.options ?? '', / -c lock_timeout=3000 /);
  assert.doesNotMatch(direct.options ?? '', /lock_timeout=0/);
  assert.equal(direct.application_name, 'mine');
  const pooled = sessionConfig({ databaseUrl, name: 'test', pooled: true, settings: { jit: 'off' } });
  assert.equal(pooled.options, '-c work_mem=1MB -c DateStyle=German', 'a pooler is sent nothing of its own');
});
