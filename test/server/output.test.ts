import assert from 'node:assert/strict';
import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process';
import { once } from 'node:events';
import { open } from 'node:fs/promises';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { freePorts } from '../support/free_ports.js';
import { waitFor, within } from '../support/wait.js';

const MAIN = fileURLToPath(new URL('../../src/main.js', import.meta.url));
const START_TIMEOUT_MS = 30_000;

/** A program whose output goes where a test says. */
function start(args: readonly string[], env: NodeJS.ProcessEnv, stdio: StdioOptions): ChildProcess {
  return spawn(process.execPath, [MAIN, ...args], { env: { ...process.env, ...env }, stdio });
}

/** A server that may be unable to say that it is ready. */
async function startServer(
  db: TestDatabase,
  stdio: StdioOptions,
): Promise<{ child: ChildProcess; post: (path: string, body: string) => Promise<Response> }> {
  const [grpc, http] = await freePorts(2);
  const child = start(
    [
      'serve',
      '--grpc-listen',
      `127.0.0.1:${grpc}`,
      '--http-listen',
      `127.0.0.1:${http}`,
      '--log-level',
      'debug',
    ],
    { DATABASE_URL: db.url },
    stdio,
  );
  const url = `http://127.0.0.1:${http}`;
  const isReady = async (): Promise<boolean> => {
    assert.equal(child.exitCode, null, 'the server has ended');
    return fetch(`${url}/readyz`).then(
      (response) => response.ok,
      () => false,
    );
  };
  await waitFor(isReady, 'the server to be ready', START_TIMEOUT_MS);
  const headers = { 'content-type': 'application/json' };
  return { child, post: (path, body) => fetch(`${url}/${path}`, { method: 'POST', headers, body }) };
}

async function stop(child: ChildProcess): Promise<void> {
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  assert.deepEqual(await within(exited, 'the server to end', START_TIMEOUT_MS), [0, null]);
}

/** With `debug` each call writes a line of 150 bytes or more: together more than a pipe takes. */
const CALLS = 800;

async function callOften(post: (path: string, body: string) => Promise<Response>): Promise<void> {
  const call = async (): Promise<void> => {
    for (let n = 0; n < CALLS / 20; n += 1) {
      const response = await within(post('baton.v1.JobService/ListRuns', '{}'), 'a call', 10_000);
      assert.equal(response.status, 200);
      await response.arrayBuffer();
    }
  };
  await Promise.all(Array.from({ length: 20 }, call));
}

describeOnEveryPostgres('a server whose output goes nowhere', (openDatabase) => {
  void test('standard output and standard error are closed', async () => {
    const db = await openDatabase();
    const { child, post } = await startServer(db, ['ignore', 'pipe', 'pipe']);
    child.stdout?.destroy();
    child.stderr?.destroy();
    await callOften(post);
    await stop(child);
    await db.drop();
  });

  void test('nobody reads standard error', async () => {
    const db = await openDatabase();
    const { child, post } = await startServer(db, ['ignore', 'pipe', 'pipe']);
    await callOften(post);
    await stop(child);
    await db.drop();
  });

  void test('the disk of its output is full; a command says so', async () => {
    const db = await openDatabase();
    const full = await open('/dev/full', 'w');
    const { child, post } = await startServer(db, ['ignore', full.fd, full.fd]);
    await callOften(post);
    await stop(child);

    const command = start(['migrate'], { DATABASE_URL: db.url }, ['ignore', full.fd, 'pipe']);
    let complaint = '';
    command.stderr?.setEncoding('utf8').on('data', (text: string) => (complaint += text));
    const ended = await within(once(command, 'close'), 'the command to end', START_TIMEOUT_MS);
    assert.deepEqual([ended, complaint.trim()], [[1, null], 'baton: ENOSPC: no space left on device, write']);
    await full.close();
    await db.drop();
  });
});

test('a command whose output nobody reads ends quietly', async () => {
  const child = start(['--help'], {}, ['ignore', 'pipe', 'pipe']);
  child.stdout?.destroy();
  let complaint = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (complaint += text));
  assert.deepEqual(await within(once(child, 'close'), 'the command to end', START_TIMEOUT_MS), [0, null]);
  assert.equal(complaint, '');
});
