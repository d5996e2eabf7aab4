/** What somebody meets who installs Baton: the package as it is declared, and the command's first words. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { BatonProcess, temporaryDir } from '../support/process.js';
import { within } from '../support/wait.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const COMMAND_TIMEOUT_MS = 20_000;

interface Manifest {
  readonly version: string;
  readonly bin: { readonly baton: string };
  readonly files: readonly string[];
  readonly dependencies: Readonly<Record<string, string>>;
  readonly devDependencies: Readonly<Record<string, string>>;
  readonly allowScripts: Readonly<Record<string, boolean>>;
}

interface LockedPackage {
  readonly version?: string;
  readonly hasInstallScript?: boolean;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

type Lock = Readonly<Record<string, LockedPackage>>;

const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Manifest;
const lock = (JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as { packages: Lock })
  .packages;

/** Optional packages that the lock file names as dependencies and does not lock: `npm ci` refuses such a file. */
function unlocked(packages: Lock): string[] {
  return Object.entries(packages).flatMap(([path, { optionalDependencies = {} }]) =>
    Object.keys(optionalDependencies).filter(
      (name) =>
        packages[`node_modules/${name}`] === undefined &&
        packages[`${path}/node_modules/${name}`] === undefined,
    ),
  );
}

function withInstallScript(packages: Lock): string[] {
  return Object.entries(packages)
    .filter(([, { hasInstallScript }]) => hasInstallScript === true)
    .map(([path]) => path.replace(/^.*node_modules\//, ''))
    .sort();
}

/** Runs `baton` to its end in an empty folder, which is handed over to look at. */
async function baton(t: TestContext, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const dir = await temporaryDir();
  t.after(dir.remove);
  const child = new BatonProcess(args, { cwd: dir.path, env });
  try {
    const code = await within(child.exited, `baton ${args.join(' ')} to end`, COMMAND_TIMEOUT_MS);
    return { code, stdout: child.stdout, stderr: child.stderr, left: readdirSync(dir.path) };
  } finally {
    child.child.kill('SIGKILL');
  }
}

test('install: the command is a file that the compiler makes', () => {
  const bin = join(ROOT, manifest.bin.baton);
  assert.ok(existsSync(bin), `${manifest.bin.baton} is not there`);
  assert.match(readFileSync(bin, 'utf8'), /^#!\/usr\/bin\/env node\n/);
  assert.equal(bin, fileURLToPath(new URL('../../src/main.js', import.meta.url)));
});

test('install: the package holds what the command needs', () => {
  for (const file of manifest.files) assert.ok(existsSync(join(ROOT, file)), `${file} is not there`);
  for (const needed of ['dist/src', 'dist/gen', 'migrations'])
    assert.ok(manifest.files.includes(needed), needed);
});

test('install: every version is exact', () => {
  for (const [name, version] of Object.entries({ ...manifest.dependencies, ...manifest.devDependencies }))
    assert.match(version, /^\d+\.\d+\.\d+(-[\w.]+)?$/, name);
});

test('install: the lock file has every optional package of every platform', () => {
  assert.deepEqual(unlocked(lock), []);
  const cut = {
    a: { optionalDependencies: { 'a-linux': '1.0.0', 'a-win32': '1.0.0' } },
    'node_modules/a-linux': {},
  };
  assert.deepEqual(unlocked(cut), ['a-win32']);
});

test('install: no install script is needed, and every one is declared', () => {
  assert.deepEqual(Object.keys(manifest.allowScripts).sort(), withInstallScript(lock));
  assert.deepEqual([...new Set(Object.values(manifest.allowScripts))], [false]);
  assert.ok(withInstallScript(lock).includes('@bufbuild/buf'), 'the lock file says who has a script');
});

test('install: baton --version and --help', async (t) => {
  const version = await baton(t, ['--version']);
  assert.deepEqual([version.code, version.stdout, version.stderr], [0, `${manifest.version}\n`, '']);
  const help = await baton(t, ['--help']);
  assert.equal(help.code, 0);
  for (const command of ['serve', 'migrate']) assert.match(help.stdout, new RegExp(`^ +${command}\\b`, 'm'));
});

test('install: baton serve --help shows every setting with its flag, variable and default', async (t) => {
  const help = await baton(t, ['serve', '--help']);
  assert.equal(help.code, 0);
  const options = help.stdout.split(/\n +(?=-)/).map((option) => option.replaceAll(/\s+/g, ' '));
  for (const [flag, variable, byDefault] of [
    ['--database-url', 'DATABASE_URL'],
    ['--listen-url', 'BATON_LISTEN_URL'],
    ['--grpc-listen', 'BATON_GRPC_LISTEN', '127.0.0.1:50051'],
    ['--http-listen', 'BATON_HTTP_LISTEN', '127.0.0.1:8080'],
    ['--data-dir', 'BATON_DATA_DIR', '.baton'],
  ] as const) {
    const option = options.find((text) => text.startsWith(`${flag} `));
    assert.ok(option, `${flag} is not in:\n${help.stdout}`);
    assert.match(option, new RegExp(`env: ${variable}\\)`));
    if (byDefault !== undefined) assert.ok(option.includes(byDefault), option);
  }
});

for (const [name, args, env] of [
  ['--grpc-listen', ['--grpc-listen', '0.0.0.0:50051'], {}],
  ['--http-listen', ['--http-listen', '[::]:8080'], {}],
  ['--http-listen', [], { BATON_HTTP_LISTEN: '192.0.2.1:8080' }],
] as const) {
  test(`install: a public address is refused: ${[...args, ...Object.values(env)].join(' ')}`, async (t) => {
    const { code, stdout, stderr, left } = await baton(t, ['serve', ...args], env);
    assert.equal(code, 1);
    assert.equal(stdout, '');
    assert.match(
      stderr,
      new RegExp(`^baton: ${name} \\S+ is reachable from other machines.*--insecure-public-listen`),
    );
    assert.deepEqual(left, [], 'nothing was begun');
  });
}

for (const [args, env, expected] of [
  [['--grpc-listen', 'nonsense'], {}, /--grpc-listen.*'nonsense'.*host:port/],
  [['--http-listen', '127.0.0.1:65536'], {}, /--http-listen.*'127\.0\.0\.1:65536'.*host:port/],
  [[], { BATON_GRPC_LISTEN: '50051' }, /--grpc-listen.*'50051'.*BATON_GRPC_LISTEN.*host:port/],
  [['--database-url', 'mysql://u:secret@localhost/x'], {}, /--database-url.*postgresql:\/\//],
  [[], { DATABASE_URL: 'postgres://u:secret@a:1,b:2/x' }, /DATABASE_URL.*postgresql:\/\//],
  [[], { DATABASE_URL: 'postgres://u:secret@a,b/x' }, /DATABASE_URL.*one host/],
  [[], { DATABASE_URL: 'host=localhost password=secret' }, /DATABASE_URL.*postgresql:\/\//],
  [
    [],
    { DATABASE_URL: 'postgres://u:secret@h/x?sslrootcert=/nowhere/ca.pem' },
    /DATABASE_URL.*\/nowhere\/ca\.pem/,
  ],
  [
    ['--database-url', 'postgres://h/x', '--listen-url', 'postgres://u:secret@h:99999/x'],
    {},
    /BATON_LISTEN_URL.*postgresql:\/\//,
  ],
  [['--databse-url=postgres://u:secret@h/x'], {}, /unknown option '--databse-url=postgres:\/\//],
  [['postgres://u:secret@h/x'], {}, /too many arguments/],
  [[], { BATON_NO_LISTEN: 'perhaps' }, /BATON_NO_LISTEN must be 1 or 0/],
  [['--listen-url', 'postgresql://127.0.0.1/x'], {}, /BATON_LISTEN_URL.*DATABASE_URL/],
  [['--no-such-flag'], {}, /unknown option '--no-such-flag'/],
] as const) {
  test(`install: a bad setting is named: ${[...args, ...Object.values(env)].join(' ')}`, async (t) => {
    const { code, stderr, left } = await baton(t, ['serve', ...args], env);
    assert.equal(code, 1);
    assert.match(stderr, expected);
    assert.doesNotMatch(stderr, /secret/);
    assert.deepEqual(left, [], 'nothing was begun');
  });
}

for (const insecure of ['', '0', 'false'])
  test(`install: an empty variable counts as unset, and no as no: '${insecure}'`, async (t) => {
    const env = {
      ...{
        DATABASE_URL: '',
        BATON_LISTEN_URL: '',
        BATON_HTTP_LISTEN: '',
        BATON_LOG_RETENTION: '',
        BATON_LOG_LEVEL: '',
      },
      ...{ BATON_NO_LISTEN: '', BATON_POOL_CONNECTIONS: '', BATON_INSECURE_PUBLIC_LISTEN: insecure },
    };
    const { code, stderr } = await baton(t, ['serve', '--grpc-listen', '0.0.0.0:0'], env);
    assert.equal(code, 1);
    assert.match(stderr, /^baton: --grpc-listen \S+ is reachable from other machines/);
  });
