/** What docs/your_postgresql.md says of rights, sockets and TLS. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chown, copyFile, chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { waitForDatabase } from '../../src/store/connect.js';
import { Cleanup } from '../support/cleanup.js';
import { serverIdentity, startDebianCluster } from '../support/debian_cluster.js';
import { createDatabase, describeOnEveryPostgres, silent } from '../support/database.js';
import { liveThrough } from '../support/life.js';
import { ANY_PORT, ServerProcess, temporaryDir } from '../support/process.js';
import { postgres15, skipWithout15 } from '../support/restores.js';
import { startTestServer } from '../support/server.js';
import { waitFor } from '../support/wait.js';

const run = promisify(execFile);
const ofFirst = { log: silent, signal: new AbortController().signal, waitMs: 0 };

describeOnEveryPostgres('a role', (open) => {
  void test('that may create in its database, and nothing else, is enough', async (t) => {
    const cleanup = new Cleanup(t);
    const database = await open('template1');
    cleanup.push(() => database.drop());
    const [role, name] = [
      `least_${process.pid}_${database.version}`,
      new URL(database.url).pathname.slice(1),
    ];
    for (const statement of [
      `create role ${role} login password 'secret' nosuperuser nocreatedb nocreaterole noinherit`,
      `revoke all on database ${name} from public`,
      'revoke all on schema public from public',
      `grant connect, create on database ${name} to ${role}`,
    ])
      await database.pool.query(statement);
    cleanup.push(async () => {
      await database.pool.query(`drop owned by ${role} cascade`);
      await database.pool.query(`drop role ${role}`);
    });
    const url = new URL(database.url);
    [url.username, url.password] = [role, 'secret'];
    const baton = await startTestServer(url.toString());
    cleanup.push(() => baton.stop());
    await liveThrough(baton);
    const [owner] = await database.pool.query(
      `select nspowner::regrole::text as owner from pg_namespace where nspname = 'baton'`,
    );
    assert.deepEqual(owner, { owner: role });
  });

  void test('that may have fewer connections than a server keeps is enough while there is little to do', async (t) => {
    const cleanup = new Cleanup(t);
    const database = await open('template1');
    cleanup.push(() => database.drop());
    const role = `few_${process.pid}_${database.version}`;
    await database.pool.query(`create role ${role} login password 'secret' connection limit 8`);
    cleanup.push(async () => {
      await database.pool.query(`drop owned by ${role} cascade`);
      await database.pool.query(`drop role ${role}`);
    });
    const url = new URL(database.url);
    await database.pool.query(`grant create on database ${url.pathname.slice(1)} to ${role}`);
    [url.username, url.password] = [role, 'secret'];
    const server = new ServerProcess(['serve', ...ANY_PORT, '--database-url', url.toString()]);
    cleanup.push(async () => {
      server.child.kill('SIGKILL');
      await server.exited;
    });
    await server.ready();
    await waitFor(
      () => /not all 10 connections of \\"baton\\" could be opened/.test(server.stderr),
      'it to say so',
    );
    const sessions = async (application: string): Promise<number> => {
      const text = `select from pg_stat_activity
        where datname = current_database() and usename = $1 and application_name = $2`;
      return (await database.pool.query(text, [role, application])).length;
    };
    // One listens and three read the log.
    await waitFor(async () => (await sessions('baton')) < 4, 'it to keep none that others may need');
    for (let n = 0; n < 20; n += 1) {
      for (const [method, body] of [
        ['CreateRun', {}],
        ['ListRuns', {}],
        ['ClaimNext', { stage: 'initialize' }],
      ] as const)
        // What the server does by itself may have the last one for a moment.
        await waitFor(async () => (await server.call(method, body)).status === 200, method);
    }
    assert.equal(await sessions('baton listen'), 1);
  });
});

void test(
  'sockets and TLS: each URL of the page works, and what it refuses is refused',
  { skip: skipWithout15 },
  async (t) => {
    assert.ok(postgres15 !== undefined, 'PostgreSQL 15 is required');
    const cleanup = new Cleanup(t);
    const dir = await temporaryDir();
    cleanup.push(() => dir.remove());
    const [key, certificate] = [join(dir.path, 'server.key'), join(dir.path, 'server.crt')];
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
    await run('openssl', [
      'req',
      '-new',
      '-x509',
      '-days',
      '2',
      '-nodes',
      ...subject,
      '-keyout',
      key,
      '-out',
      certificate,
    ]);
    const other = join(dir.path, 'other.crt');
    await run('openssl', [
      'req',
      '-new',
      '-x509',
      '-days',
      '2',
      '-nodes',
      ...subject,
      '-keyout',
      `${other}.key`,
      '-out',
      other,
    ]);
    const identity = await serverIdentity();
    if (identity !== undefined) await chown(key, identity.uid, identity.gid);
    await chmod(key, 0o600);
    const data = join(dir.path, 'data');
    const settings = {
      ssl: 'on',
      ssl_key_file: key,
      ssl_cert_file: certificate,
      unix_socket_directories: data,
      fsync: 'off',
    };
    const cluster = await startDebianCluster(postgres15, dir.path, settings);
    cleanup.push(() => cluster.stop());
    // A copy, since the folder of the data is closed to others.
    const ca = join(dir.path, 'ca.crt');
    await copyFile(certificate, ca);
    const { port } = new URL(cluster.url);
    const [ip, name, socket] = [
      `baton@127.0.0.1:${port}`,
      `baton@localhost:${port}`,
      `host=${data}&port=${port}`,
    ];
    const outcome = (url: string): Promise<string> =>
      waitForDatabase({ url, variable: 'DATABASE_URL', pooled: false }, ofFirst).then(
        () => 'works',
        (error: unknown) => String(error),
      );
    for (const url of [
      `postgres://${ip}/postgres`,
      `postgres://${ip}/postgres?sslmode=disable`,
      `postgres://baton@/postgres?${socket}`,
      `postgres://baton@${encodeURIComponent(data)}:${port}/postgres`,
      `postgres://${name}/postgres?sslmode=verify-full&sslrootcert=${ca}`,
      `postgres://${ip}/postgres?sslmode=no-verify`,
      `postgres://${ip}/postgres?sslmode=require&uselibpqcompat=true`,
      `postgres://${ip}/postgres?sslmode=verify-ca&sslrootcert=${ca}&uselibpqcompat=true`,
    ])
      assert.equal(await outcome(url), 'works', url);
    for (const url of [
      // Nobody known has signed it; it is of another name; of another authority.
      `postgres://${name}/postgres?sslmode=verify-full`,
      `postgres://${name}/postgres?sslmode=require`,
      `postgres://${ip}/postgres?sslmode=verify-full&sslrootcert=${ca}`,
      `postgres://${name}/postgres?sslmode=verify-full&sslrootcert=${other}`,
    ])
      assert.match(await outcome(url), /certificate|self-signed|altnames/i, url);
    const database = await createDatabase(cluster.url, 15, 'template1' as const);
    cleanup.push(() => database.drop());
    const dbname = new URL(database.url).pathname.slice(1);
    const baton = await startTestServer(`postgres://baton@/${dbname}?${socket}`);
    cleanup.push(() => baton.stop());
    await liveThrough(baton);
  },
);
