import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { access, mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { ANY_PORT, ServerProcess, temporaryDir, type BatonProcess } from '../support/process.js';
import { waitFor, within } from '../support/wait.js';
import { Watching } from '../support/watching.js';

const run = promisify(execFile);

/** The embedded server as a user starts it: a process of its own, its own PostgreSQL, a data directory. */
void describe('baton serve with the embedded PostgreSQL', () => {
  let dir: string;
  let remove: () => Promise<void>;
  const started: BatonProcess[] = [];

  beforeEach(async () => {
    ({ path: dir, remove } = await temporaryDir());
  });

  afterEach(async () => {
    for (const server of started.splice(0)) await server.end();
    await remove();
  });

  const serve = (
    args: string[] = [],
    options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
  ): ServerProcess => {
    const server = new ServerProcess(['serve', ...ANY_PORT, ...args], { cwd: dir, ...options });
    started.push(server);
    return server;
  };

  const postmasterPid = async (): Promise<number> => {
    const text = await readFile(join(dir, '.baton', 'postgres', 'postmaster.pid'), 'utf8');
    return Number(text.split('\n')[0]);
  };

  const alive = (pid: number): boolean => {
    try {
      process.kill(pid, 0);
      return true;
    } catch {
      return false;
    }
  };

  void test('the gate knows the names and origins of the settings', async () => {
    const env = { BATON_HTTP_HOSTS: 'baton.test', BATON_HTTP_ORIGINS: 'https://app.test' };
    const { httpUrl } = await serve([], { env }).ready();
    const status = async (...headers: string[]): Promise<string> => {
      const given = headers.flatMap((header) => ['-H', header]);
      const { stdout } = await run('curl', [
        '-s',
        '-o',
        '/dev/null',
        '-w',
        '%{http_code}',
        ...given,
        `${httpUrl}/metrics`,
      ]);
      return stdout;
    };
    assert.equal(await status(), '200');
    assert.equal(await status('Host: baton.test'), '200');
    assert.equal(await status('Host: other.test'), '421');
    assert.equal(await status('Origin: https://app.test', 'Sec-Fetch-Site: cross-site'), '200');
    assert.equal(await status('Origin: https://other.test', 'Sec-Fetch-Site: cross-site'), '403');
  });

  void test('starts in an empty directory, and the printed curl works', async () => {
    const server = await serve().ready();
    const command = /^ {2}(curl .*)$/m.exec(server.stdout)?.[1];
    assert.ok(command, server.stdout);
    const { stdout } = await run('bash', ['-c', `${command} -sS`]);
    const created = JSON.parse(stdout) as { run: { status: string; repository: string } };
    assert.deepEqual([created.run.status, created.run.repository], ['new', 'hello']);
    assert.equal((await fetch(`${server.httpUrl}/healthz`)).status, 200);
    assert.equal((await fetch(`${server.httpUrl}/readyz`)).status, 200);
    const pid = await postmasterPid();
    assert.equal(await server.end(), 0);
    assert.ok(!alive(pid), 'PostgreSQL is left');
  });

  void test('keeps its data between starts, after SIGTERM and after kill -9', async () => {
    const first = await serve().ready();
    const created = await first.call('CreateRun', { repository: 'kept' });
    const { id } = created.json['run'] as { id: string };
    await first.end('SIGTERM');

    const second = await serve().ready();
    assert.equal(
      ((await second.call('GetRun', { id })).json['run'] as { repository: string }).repository,
      'kept',
    );
    const claimed = await second.call('ClaimNext', { stage: 'initialize' });
    const [claim] = claimed.json['claims'] as { leaseToken: string }[];
    const orphan = await postmasterPid();
    await second.end('SIGKILL');
    assert.ok(alive(orphan), 'the test needs an orphaned PostgreSQL');

    // The lease outlives the server: the worker reports to the next one.
    const third = await serve().ready();
    await waitFor(() => !alive(orphan), 'the orphaned PostgreSQL to end');
    const updated = await third.call('UpdateStatus', {
      runId: id,
      leaseToken: claim?.leaseToken,
      status: 'initialized',
    });
    assert.equal(updated.status, 200, JSON.stringify(updated.json));
  });

  void test('a second server on the same data directory is refused and told why', async () => {
    const first = await serve().ready();
    const second = serve();
    assert.equal(await within(second.exited, 'the second server to give up', 10_000), 1);
    assert.match(second.stderr, /\.baton/);
    assert.match(second.stderr, new RegExp(`\\b${first.child.pid}\\b`));
    assert.equal((await first.call('ListRuns', {})).status, 200);
  });

  void test('works from any directory, with spaces and other letters in the path', async () => {
    const elsewhere = join(dir, 'elsewhere');
    const data = join(dir, 'a folder', 'dätä "1"');
    await mkdir(elsewhere);
    const server = await serve(['--data-dir', data], { cwd: elsewhere }).ready();
    assert.equal((await server.call('CreateRun', {})).status, 200);
    await access(join(data, 'postgres'));
  });

  void test('SIGTERM ends cleanly with streams and claims open', async () => {
    const server = await serve().ready();
    const jobs = createClient(JobService, createGrpcTransport({ baseUrl: `http://${server.grpcAddress}` }));
    const watches = Array.from({ length: 20 }, () => new Watching(jobs));
    await Promise.all(watches.map((watch) => watch.opened()));
    const waiting = jobs.claimNext({ stage: 'run', wait: { seconds: 50n } });
    // Once the stream has seen this run, the claim that was sent before is waiting.
    await jobs.createRun({});
    await Promise.all(watches.map((watch) => watch.hasEvents(1)));
    assert.equal(await server.end('SIGTERM'), 0);
    assert.deepEqual((await waiting).claims, []);
    for (const watch of watches) await watch.end();
    assert.ok(watches.every((watch) => watch.lastToken !== ''));
  });

  void test('ends with an error when its PostgreSQL dies', async () => {
    const server = await serve().ready();
    process.kill(await postmasterPid(), 'SIGKILL');
    assert.equal(await within(server.exited, 'the server to end', 20_000), 1);
    assert.match(server.stderr, /embedded PostgreSQL ended/);
  });

  void test('a port that is taken is a clear error, and nothing is left running', async () => {
    const first = await serve().ready();
    const port = new URL(first.httpUrl).port;
    for (const listener of ['http', 'grpc']) {
      const args = ['--data-dir', join(dir, 'second'), `--${listener}-listen`, `127.0.0.1:${port}`];
      const second = serve(args);
      assert.equal(await within(second.exited, 'the second server to give up', 20_000), 1);
      const variable = `BATON_${listener.toUpperCase()}_LISTEN`;
      assert.match(
        second.stderr,
        new RegExp(`^baton: ${variable} .* 127\\.0\\.0\\.1:${port} is in use`, 'm'),
      );
      // grpc-js has a line of its own for it.
      assert.doesNotMatch(second.stderr, /^E /m);
      await assert.rejects(access(join(dir, 'second', 'postgres', 'postmaster.pid')));
    }
  });
});
