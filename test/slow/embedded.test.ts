import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import {
  chmod,
  chown,
  cp,
  lstat,
  mkdir,
  readFile,
  readdir,
  readlink,
  realpath,
  rm,
  stat,
  symlink,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { after, describe, test } from 'node:test';
import { createLogger } from '../../src/base/log.js';
import { locateNativeDir } from '../../src/store/embedded/binaries.js';
import { acquireDirectoryLock, confirmClaim } from '../../src/store/embedded/directory-lock.js';
import { startEmbeddedPostgres } from '../../src/store/embedded/embedded-postgres.js';
import { identify, isPostgresByCommand, startFromPs } from '../../src/store/embedded/process-identity.js';
import { stopPostmaster } from '../../src/store/embedded/postmaster.js';
import { limitServerLog } from '../../src/store/embedded/server-log.js';
import {
  ended,
  eventually,
  isRoot,
  leftDirectories,
  leftProcesses,
  linuxOnly,
  NOBODY,
  ORDINARY,
  query,
  nobodyOnly,
  rootOnly,
  start,
  startChild,
  started,
  temporaryDir,
  type Options,
} from '../support/embedded_fixture.js';
import { assertTook } from '../support/wait.js';

/** For clusters whose durability no test looks at. */
const FAST = { fsync: 'off' };
const log = createLogger('silent');

const startFails = (options: Options & { dataDir: string }, message: RegExp) =>
  assert.rejects(startEmbeddedPostgres({ ...options, log }), { name: 'EmbeddedPostgresError', message });

const copyPackage = async (to: string): Promise<string> => {
  await cp(join(locateNativeDir(), '..'), to, { recursive: true, verbatimSymlinks: true });
  return join(to, 'native');
};

const removeLinks = async (nativeDir: string) => {
  const lib = join(nativeDir, 'lib');
  for (const entry of await readdir(lib, { withFileTypes: true })) {
    if (entry.isSymbolicLink()) await unlink(join(lib, entry.name));
  }
  await chmod(join(nativeDir, 'bin', 'initdb'), 0o644);
};

describe('embedded PostgreSQL', () => {
  after(() => {
    assert.deepEqual(leftDirectories(), []);
    if (process.platform === 'linux') assert.deepEqual(leftProcesses(), []);
  });

  test('a first start makes a durable, private database', async (t) => {
    const dataDir = join(await temporaryDir(t), 'made', 'by it');
    const before = performance.now();
    const postgres = await start(t, { dataDir });
    const took = performance.now() - before;
    t.diagnostic(`first start took ${Math.round(took)} ms`);
    assert.match(postgres.version, /^18\./);
    const cluster = await realpath(join(dataDir, 'postgres'));
    assert.ok(await isPostgresByCommand(postgres.pid, cluster));
    assert.ok(!(await isPostgresByCommand(process.pid, cluster)));

    const [settings] = await query(
      postgres.url,
      `SELECT current_database() AS database, current_setting('fsync') AS fsync,
              current_setting('synchronous_commit') AS commit, current_setting('wal_level') AS wal,
              current_setting('listen_addresses') AS address, current_setting('unix_socket_directories') AS sockets,
              pg_encoding_to_char(encoding) AS encoding, datlocprovider AS provider, datcollate AS collate,
              (SELECT count(*)::int FROM pg_hba_file_rules WHERE auth_method <> 'scram-sha-256') AS open_rules
         FROM pg_database WHERE datname = current_database()`,
    );
    assert.deepEqual(settings, {
      database: 'baton',
      fsync: 'on',
      commit: 'on',
      wal: 'replica',
      address: '127.0.0.1',
      sockets: '',
      encoding: 'UTF8',
      provider: 'b',
      collate: 'C',
      open_rules: 0,
    });
    const { mode, uid } = await stat(join(dataDir, 'postgres.password'));
    assert.equal(mode & 0o777, 0o600);
    assert.equal(uid, process.getuid?.());
    await assert.rejects(query(postgres.url.replace(/:[0-9a-f]+@/, ':wrong@'), 'SELECT 1'), /password/);
  });

  test('data, port and password are kept between starts, and settings can be added', async (t) => {
    const dataDir = join(await temporaryDir(t), 'data');
    const first = await start(t, { dataDir });
    await query(first.url, 'CREATE TABLE kept AS SELECT 42 AS answer');
    await Promise.all([first.stop(), first.stop()]);
    assert.deepEqual(await first.exited, { code: 0, signal: null });
    assert.equal(first.stop(), first.stop(), 'stop may be called again');

    const settings = { wal_level: 'logical', listen_addresses: '0.0.0.0', unix_socket_directories: dataDir };
    const before = performance.now();
    const second = await start(t, { dataDir, settings });
    t.diagnostic(`next start took ${Math.round(performance.now() - before)} ms`);
    assert.equal(second.url, first.url);
    const [row] = await query(
      second.url,
      `SELECT answer, current_setting('wal_level') AS wal, current_setting('listen_addresses') AS address FROM kept`,
    );
    assert.deepEqual(row, { answer: 42, wal: 'logical', address: '127.0.0.1' });
    await second.stop();

    const port = Number(new URL(first.url).port);
    const occupant = createServer().listen(port, '127.0.0.1');
    await once(occupant, 'listening');
    t.after(() => occupant.close());
    const third = await start(t, { dataDir });
    assert.notEqual(new URL(third.url).port, String(port), 'another port while the old one is taken');
    await third.stop();

    await rm(join(dataDir, 'postgres.password'));
    const fourth = await start(t, { dataDir });
    assert.deepEqual(await query(fourth.url, 'SELECT answer FROM kept'), [{ answer: 42 }]);
  });

  describe('a directory has one server', () => {
    test('a second start is refused with the directory and the holder', async (t) => {
      const dataDir = join(await temporaryDir(t), 'data');
      const child = startChild(t, { dataDir, settings: FAST });
      await started(child);
      const before = performance.now();
      await startFails(
        { dataDir },
        new RegExp(`${dataDir} is in use by another server \\(process ${child.process.pid}\\)`),
      );
      assertTook('the refusal', performance.now() - before, 500);
    });

    test('of several starts at the same instant exactly one wins', async (t) => {
      const dataDir = join(await temporaryDir(t), 'data');
      const children = Array.from({ length: 3 }, () => startChild(t, { dataDir, settings: FAST }));
      const reports = await Promise.all(children.map(({ report }) => report));
      assert.equal(reports.filter(({ url }) => url !== undefined).length, 1);
      for (const { error } of reports) assert.match(error ?? 'is in use by', /is in use by/);
    });

    test('the lock is taken over from the dead, from a reused process id and after a release, by one', async (t) => {
      const lockDir = join(await temporaryDir(t), 'lock');
      const dead = spawn('true');
      await once(dead, 'exit');
      const claims = [
        { pid: dead.pid, started: 'long ago' },
        { pid: process.ppid, started: 'another process had this id' },
        '',
      ];
      for (const [index, claim] of claims.entries()) {
        await mkdir(lockDir, { recursive: true });
        await writeFile(join(lockDir, String(index + 7)), claim === '' ? '' : JSON.stringify(claim));
        const tries = await Promise.allSettled(
          Array.from({ length: 20 }, () => acquireDirectoryLock(lockDir, 'It')),
        );
        const won = tries.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
        assert.equal(won.length, 1);
        assert.equal((await readdir(lockDir)).length, 1, 'outdated claims are removed');
        await won[0]?.release();
        await (await acquireDirectoryLock(lockDir, 'It')).release();
        await rm(lockDir, { recursive: true });
      }
    });

    test('a claim from an outdated view of the directory is withdrawn', async (t) => {
      const lockDir = await temporaryDir(t);
      for (const number of ['5', '6', '7']) await writeFile(join(lockDir, number), '');
      assert.equal(await confirmClaim(lockDir, 6), false);
      assert.deepEqual((await readdir(lockDir)).sort(), ['5', '7']);
      assert.equal(await confirmClaim(lockDir, 7), true);
      assert.deepEqual(await readdir(lockDir), ['7']);
    });

    test('start times are told with and without /proc', async () => {
      assert.notEqual((await identify(process.pid))?.started ?? '', '');
      const byPs = await startFromPs(process.pid);
      assert.match(byPs ?? '', /\d\d:\d\d:\d\d/);
      assert.equal(await startFromPs(process.pid), byPs);
    });
  });

  describe('after a crash', () => {
    const crashed = async (t: Parameters<typeof temporaryDir>[0], settings: Record<string, string> = {}) => {
      const dataDir = join(await temporaryDir(t), 'data');
      const child = startChild(t, { dataDir, settings });
      const { url, pid } = await started(child);
      await query(url, 'CREATE TABLE kept AS SELECT 42 AS answer');
      await child.end('SIGKILL');
      return { dataDir, url, orphan: pid };
    };

    test('an orphaned server is stopped and the next one has its data and port', async (t) => {
      const { dataDir, url, orphan } = await crashed(t);
      assert.equal((await query(url, 'SELECT 1')).length, 1, 'the orphan still runs');
      const postgres = await start(t, { dataDir });
      await ended(orphan);
      assert.equal(postgres.url, url);
      assert.deepEqual(await query(postgres.url, 'SELECT answer FROM kept'), [{ answer: 42 }]);
    });

    test('committed data survives the kill of both, and the pid of postmaster.pid may be reused', async (t) => {
      const { dataDir, orphan } = await crashed(t);
      process.kill(orphan, 'SIGKILL');
      await ended(orphan);
      const pidFile = join(dataDir, 'postgres', 'postmaster.pid');
      const { uid, gid } = await stat(pidFile);
      const bystander = spawn('sleep', ['1000'], { ...(isRoot ? { uid, gid } : {}), cwd: '/' });
      t.after(() => bystander.kill());
      await writeFile(pidFile, (await readFile(pidFile, 'utf8')).replace(/^\d+/, String(bystander.pid)));
      const postgres = await start(t, { dataDir });
      assert.deepEqual(await query(postgres.url, 'SELECT answer FROM kept'), [{ answer: 42 }]);
      assert.equal(bystander.exitCode ?? bystander.signalCode, null, 'it was left alone');
    });

    test('a session that outlives its killed postmaster is waited for', linuxOnly, async (t) => {
      const { dataDir, url, orphan } = await crashed(t);
      // A stopped session cannot notice the end of its postmaster and keeps the shared memory attached.
      const [session] = await query(
        url,
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'",
      );
      const pid = Number(session?.['pid']);
      process.kill(pid, 'SIGSTOP');
      process.kill(orphan, 'SIGKILL');
      await ended(orphan);
      const starting = start(t, { dataDir });
      await eventually('the start is refused by PostgreSQL', async () =>
        (await readFile(join(dataDir, 'postgres.log'), 'utf8')).includes('pre-existing shared memory block'),
      );
      process.kill(pid, 'SIGCONT');
      assert.deepEqual(await query((await starting).url, 'SELECT answer FROM kept'), [{ answer: 42 }]);
    });

    test('a start that was killed during initdb leaves nothing in the way', async (t) => {
      const dataDir = join(await temporaryDir(t), 'data');
      const child = startChild(t, { dataDir, settings: FAST });
      const unfinished = async () => {
        const names = existsSync(dataDir) ? await readdir(dataDir) : [];
        return names.find(
          (name) => name.includes('.new-') && existsSync(join(dataDir, name, 'data', 'base')),
        );
      };
      await eventually('initdb is at work', async () => (await unfinished()) !== undefined);
      await child.end('SIGKILL');
      assert.ok(!existsSync(join(dataDir, 'postgres')));
      await eventually('initdb has ended', () => !initdbRuns(dataDir));
      const postgres = await start(t, { dataDir, settings: FAST });
      assert.equal((await query(postgres.url, 'SELECT 1')).length, 1);
      assert.equal(await unfinished(), undefined, 'and it is cleared away');
    });

    const initdbRuns = (dataDir: string) =>
      execFileSync('ps', ['-ewwo', 'args=']).toString().includes(`=${dataDir}/`);
  });

  describe('as root', rootOnly, () => {
    test('PostgreSQL runs as another user without groups of root, in a session of its own', async (t) => {
      const groups = process.getgroups?.() ?? [];
      t.after(() => process.setgroups?.(groups));
      process.setgroups?.([0, 1]);
      const postgres = await start(t, { dataDir: join(await temporaryDir(t), 'data'), settings: FAST });
      const status = await readFile(`/proc/${postgres.pid}/status`, 'utf8');
      assert.doesNotMatch(status, /^Uid:.*\t0\b/m);
      assert.doesNotMatch(status, /^Gid:.*\t0\b/m);
      assert.match(status, /^Groups:\s*$/m);
      const fields = (await readFile(`/proc/${postgres.pid}/stat`, 'utf8')).split(') ')[1]?.split(' ') ?? [];
      assert.deepEqual(fields.slice(2, 4), [String(postgres.pid), String(postgres.pid)], 'group and session');
    });

    test('places that user may not enter are worked around and left as they are', async (t) => {
      const closed = await temporaryDir(t, 0o700);
      const systemDir = join(await temporaryDir(t), 'system');
      const nativeDir = await copyPackage(join(closed, 'package'));
      const dataDir = join(closed, 'data');
      const postgres = await start(t, { dataDir, systemDir, nativeDir, settings: FAST });
      await query(postgres.url, 'CREATE TABLE kept AS SELECT 42 AS answer');
      const cluster = await readlink(join(dataDir, 'postgres'));
      assert.equal(dirname(dirname(cluster)), systemDir);
      assert.match(await readFile(join(dirname(cluster), 'data-directory'), 'utf8'), new RegExp(dataDir));
      assert.equal((await stat(closed)).mode & 0o777, 0o700);

      const other = await start(t, { dataDir: join(closed, 'other'), systemDir, nativeDir, settings: FAST });
      const copies = (await readdir(systemDir)).filter((name) => name.startsWith('postgresql-'));
      assert.equal(copies.length, 1, 'both use one copy');
      assert.match(copies[0] ?? '', /^postgresql-18\.\d+-[0-9a-f]{12}$/);
      await other.stop();

      const twin = join(closed, 'twin');
      await mkdir(twin);
      await symlink(cluster, join(twin, 'postgres'));
      await startFails({ dataDir: twin, systemDir, nativeDir }, /is in use by this process itself/);

      await postgres.stop();
      const again = await start(t, { dataDir, systemDir, nativeDir, settings: FAST });
      assert.deepEqual(await query(again.url, 'SELECT answer FROM kept'), [{ answer: 42 }]);
      await again.stop();
      await rm(systemDir, { recursive: true });
      await startFails({ dataDir, systemDir, nativeDir }, /is a link to .* which is not there/);
    });

    test('a cluster that its user can no longer reach is named', async (t) => {
      const dir = await temporaryDir(t);
      const dataDir = join(dir, 'data');
      await (await start(t, { dataDir, settings: FAST })).stop();
      await chmod(dir, 0o700);
      await startFails({ dataDir }, /may not enter .*data\/postgres any more/);
    });

    test('a user is created where there is none', async (t) => {
      const dir = await temporaryDir(t);
      // In a mount namespace of its own with a copy of /etc, so the real list of users stays as it is.
      const script = 'mount --bind "$0/etc" /etc && exec "$@"';
      const wrapper = ['unshare', '--mount', 'sh', '-c', script, dir];
      execFileSync('cp', ['-a', '/etc', join(dir, 'etc')]);
      const probe = spawn(wrapper[0] ?? '', [...wrapper.slice(1), 'useradd', '--help'], {
        stdio: 'ignore',
      });
      const [code] = (await once(probe, 'close').catch(() => [1])) as [number];
      if (code !== 0) return t.skip('needs unshare with the right to mount, and useradd');
      for (const file of ['passwd', 'group', 'shadow', 'gshadow']) {
        const path = join(dir, 'etc', file);
        if (existsSync(path))
          await writeFile(path, (await readFile(path, 'utf8')).replace(/^(postgres|baton):.*\n/gm, ''));
      }
      const child = startChild(t, { dataDir: join(dir, 'data'), settings: FAST }, { wrapper });
      const { pid } = await started(child);
      const passwd = await readFile(join(dir, 'etc', 'passwd'), 'utf8');
      const uid = /^baton:[^:]*:(\d+):/m.exec(passwd)?.[1];
      assert.match(await readFile(`/proc/${pid}/status`, 'utf8'), new RegExp(`^Uid:\\t${uid}\\t`, 'm'));
    });

    test('the owner of an existing cluster runs it', nobodyOnly, async (t) => {
      const dir = await temporaryDir(t);
      await chown(dir, NOBODY.uid, NOBODY.gid);
      const dataDir = join(dir, 'data');
      const child = startChild(t, { dataDir, settings: FAST }, { ...NOBODY, env: { HOME: dir } });
      await started(child);
      await child.end('SIGTERM');
      const postgres = await start(t, { dataDir, settings: FAST });
      const status = await readFile(`/proc/${postgres.pid}/status`, 'utf8');
      assert.match(status, new RegExp(`^Uid:\\t${NOBODY.uid}\\t`, 'm'));
      await postgres.stop();
      await started(startChild(t, { dataDir, settings: FAST }, { ...NOBODY, env: { HOME: dir } }));
    });
  });

  describe('as an ordinary user', () => {
    const asNobody = ORDINARY ?? {};

    test('any path, relative to any working directory', async (t) => {
      const home = join(await temporaryDir(t), 'größe "x" it\'s $HOME `id`');
      await mkdir(home);
      if (ORDINARY !== undefined) await chown(home, NOBODY.uid, NOBODY.gid);
      const child = startChild(
        t,
        { dataDir: 'a b/.baton', settings: FAST },
        { ...asNobody, cwd: home, env: { HOME: home } },
      );
      const { url } = await started(child);
      const [row] = await query(url, 'SHOW data_directory');
      assert.equal(row?.['data_directory'], join(await realpath(home), 'a b/.baton/postgres'));
    });

    test('a package that lacks its links and cannot be written runs from a copy', nobodyOnly, async (t) => {
      const dir = await temporaryDir(t);
      const nativeDir = await copyPackage(join(dir, 'package'));
      await removeLinks(nativeDir);
      const home = join(dir, 'home');
      await mkdir(home);
      await chown(home, NOBODY.uid, NOBODY.gid);
      const options = { dataDir: join(home, 'data'), nativeDir, settings: FAST };
      await started(startChild(t, options, { ...NOBODY, env: { HOME: home } }));
      assert.match((await readdir(join(home, '.cache', 'baton')))[0] ?? '', /^postgresql-18/);
      assert.ok(!existsSync(join(nativeDir, 'lib', 'libpq.so.5')));
      // Without a home that can be written, the copy goes into the data directory.
      const homeless = { ...options, dataDir: join(home, 'data2') };
      await started(startChild(t, homeless, { ...NOBODY, env: { HOME: '/nonexistent' } }));
      assert.ok((await readdir(homeless.dataDir)).some((name) => name.startsWith('postgresql-18')));
    });

    test('no right to write is said plainly', nobodyOnly, async (t) => {
      const dir = await temporaryDir(t);
      const { error } = await startChild(t, { dataDir: join(dir, 'data') }, { ...NOBODY, env: { HOME: dir } })
        .report;
      assert.match(
        error ?? '',
        /Cannot make the data directory .*data.* \(as user id 65534\): permission denied/,
      );
    });
  });

  test('an install without scripts is completed', async (t) => {
    const nativeDir = await copyPackage(join(await temporaryDir(t), 'package'));
    await removeLinks(nativeDir);
    const dataDir = join(await temporaryDir(t), 'data');
    const postgres = await start(t, { dataDir, nativeDir, settings: FAST });
    assert.ok((await lstat(join(nativeDir, 'lib', 'libicuuc.so.60'))).isSymbolicLink());
    assert.equal((await query(postgres.url, 'SELECT 1')).length, 1);
  });

  test('a path that initdb cannot handle gets a copy', async (t) => {
    const nativeDir = await copyPackage(join(await temporaryDir(t), 'pack"age'));
    const systemDir = join(await temporaryDir(t), 'system');
    await start(t, { dataDir: join(await temporaryDir(t), 'data'), nativeDir, systemDir, settings: FAST });
    assert.equal((await readdir(systemDir)).length, 1);
  });

  describe('the end', () => {
    test('a server that dies by itself is reported, and the next start works', async (t) => {
      const dataDir = join(await temporaryDir(t), 'data');
      const postgres = await start(t, { dataDir, settings: FAST });
      process.kill(postgres.pid, 'SIGKILL');
      assert.deepEqual(await postgres.exited, { code: null, signal: 'SIGKILL' });
      await postgres.stop();
      await start(t, { dataDir, settings: FAST });
    });

    test('a shutdown that hangs is escalated to the kill', async (t) => {
      const postgres = await start(t, { dataDir: join(await temporaryDir(t), 'data'), settings: FAST });
      process.kill(postgres.pid, 'SIGSTOP');
      const asPostmaster = {
        ...postgres,
        hasExited: () => false,
        kill: (s: NodeJS.Signals) => void process.kill(postgres.pid, s),
      };
      await stopPostmaster(asPostmaster, 50, 50);
      assert.deepEqual(await postgres.exited, { code: null, signal: 'SIGKILL' });
    });

    test('a fast shutdown that hangs on a session is followed by an immediate one', linuxOnly, async (t) => {
      const postgres = await start(t, { dataDir: join(await temporaryDir(t), 'data'), settings: FAST });
      const [row] = await query(
        postgres.url,
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'",
      );
      process.kill(Number(row?.['pid']), 'SIGSTOP');
      const asPostmaster = {
        ...postgres,
        hasExited: () => false,
        kill: (s: NodeJS.Signals) => void process.kill(postgres.pid, s),
      };
      await stopPostmaster(asPostmaster, 50, 20_000);
      assert.notEqual((await postgres.exited).signal, 'SIGKILL');
    });

    test('a process that exits without a stop takes its server along', async (t) => {
      const child = startChild(t, {
        dataDir: join(await temporaryDir(t), 'data'),
        settings: FAST,
        exitWhenReady: true,
      });
      await ended((await started(child)).pid);
    });

    test('an aborted start leaves nothing running or locked', async (t) => {
      const dataDir = join(await temporaryDir(t), 'data');
      const abort = new AbortController();
      const starting = startEmbeddedPostgres({ dataDir, log, signal: abort.signal });
      starting.catch(() => {});
      await eventually('initdb is at work', async () =>
        existsSync(dataDir) ? (await readdir(dataDir)).some((name) => name.includes('.new-')) : false,
      );
      abort.abort(new Error('enough'));
      await assert.rejects(starting, /enough/);
      assert.deepEqual((await readdir(dataDir)).sort(), ['postgres.password', 'server.lock']);
      await start(t, { dataDir, settings: FAST });
    });
  });

  describe('the log', () => {
    test('its end is quoted when the server does not start', async (t) => {
      const dataDir = join(await temporaryDir(t), 'data');
      await startFails(
        { dataDir, settings: { ...FAST, no_such_setting: '1' } },
        /did not start[^]*no_such_setting/,
      );
      await start(t, { dataDir, settings: FAST });
      assert.match(await readFile(join(dataDir, 'postgres.log'), 'utf8'), /ready to accept connections/);
    });

    test('it is limited in length', async (t) => {
      const path = join(await temporaryDir(t), 'log');
      await writeFile(path, 'x'.repeat(1_000));
      await limitServerLog(path, 1_000);
      assert.equal((await stat(path)).size, 1_000);
      await limitServerLog(path, 999);
      assert.equal((await stat(path)).size, 0);
      assert.equal((await stat(`${path}.1`)).size, 1_000);
    });
  });

  describe('clear errors', () => {
    test('no binaries for this platform', () => {
      for (const [platform, arch] of [
        ['sunos', 'x64'],
        ['linux', 's390x'],
        ['win32', 'x64'],
      ]) {
        assert.throws(
          () => locateNativeDir(platform, arch),
          new RegExp(`not available for ${platform}.*DATABASE_URL`),
        );
      }
    });

    test('binaries that do not run', async (t) => {
      const dir = await temporaryDir(t);
      const nativeDir = join(dir, 'native');
      await mkdir(join(nativeDir, 'bin'), { recursive: true });
      await writeFile(join(nativeDir, 'pg-symlinks.json'), '[]');
      for (const name of ['postgres', 'initdb'])
        await writeFile(join(nativeDir, 'bin', name), '#!/no/such/loader\n', { mode: 0o755 });
      await startFails(
        { dataDir: join(dir, 'data'), nativeDir, systemDir: join(dir, 'system') },
        /GNU C library.*DATABASE_URL/,
      );
    });

    test('data of another major version stays untouched', async (t) => {
      const dataDir = join(await temporaryDir(t), 'data');
      await mkdir(join(dataDir, 'postgres'), { recursive: true });
      await writeFile(join(dataDir, 'postgres', 'PG_VERSION'), '17\n');
      await startFails({ dataDir }, /made by PostgreSQL 17; this is PostgreSQL 18.*Nothing was changed/);
      assert.deepEqual(await readdir(join(dataDir, 'postgres')), ['PG_VERSION']);
      await startFails({ dataDir }, /made by PostgreSQL 17/);
    });

    test('something else where the data should be', async (t) => {
      const dir = await temporaryDir(t);
      await writeFile(join(dir, 'file'), '');
      await startFails({ dataDir: join(dir, 'file') }, /file.*: it is a file, not a directory/);
      await startFails({ dataDir: join(dir, 'file', 'below') }, /a part of the path is a file/);
      await writeFile(join(dir, 'postgres'), '');
      await startFails({ dataDir: dir }, /postgres is a file/);
      await rm(join(dir, 'postgres'));
      await mkdir(join(dir, 'postgres'));
      await writeFile(join(dir, 'postgres', 'thesis.txt'), '');
      await startFails({ dataDir: dir }, /has content but is not a PostgreSQL data directory/);
    });
  });
});
