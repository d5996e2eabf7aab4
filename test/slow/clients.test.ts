/**
 * What docs/clients.md promises to clients in other languages: its commands are run as they stand on the page, with the
 * `proto` folder of the package that `npm pack` makes, and its programs work against a server.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { cp, mkdir, readdir, readFile, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import {
  commandsOf,
  packInto,
  readPage,
  ROOT,
  run,
  startProject,
  type Block,
} from '../support/clients_page.js';
import { ANY_PORT, ServerProcess, temporaryDir } from '../support/process.js';

/** What every program of the page prints. */
const PRINTED = [
  'created new',
  'claimed initializing',
  'reported initialized',
  'watching WATCH_KIND_OPENED',
  'baton.v1 INVALID_ARGUMENT',
  'priority must be 0 to 9',
].join('\n');

/** What a command needs that this machine may lack, and Debian's package for it. */
const PROTOC = {
  check:
    'protoc --version && test -e "$(dirname "$(command -v protoc)")/../include/google/protobuf/struct.proto"',
  hint: 'protoc with its protos is missing (apt-get install protobuf-compiler libprotobuf-dev)',
};
const TOOLS = {
  protoc: PROTOC,
  go: { check: 'go version', hint: 'Go is missing (apt-get install golang-go)' },
  python: {
    check: 'python3 -c "import ensurepip, venv"',
    hint: 'Python is missing (apt-get install python3-venv)',
  },
  cargo: { check: 'cargo --version', hint: 'Rust 1.88 or newer is missing' },
  javaPlugin: {
    check: 'test -x /usr/bin/grpc_java_plugin',
    hint: 'grpc_java_plugin is missing (apt-get install protobuf-compiler-grpc-java-plugin)',
  },
} as const;

/** Why something cannot be tried here, or false. Where everything is required, the test finds that out by itself. */
async function skipWithout(...tools: (keyof typeof TOOLS)[]): Promise<string | false> {
  if (process.env['BATON_REQUIRE_ALL'] === '1') return false;
  for (const tool of tools) {
    const { check, hint } = TOOLS[tool];
    const isThere = await run('.', check).then(
      () => true,
      () => false,
    );
    if (!isThere) return hint;
  }
  return false;
}

const missing = {
  protoc: await skipWithout('protoc'),
  Go: await skipWithout('protoc', 'go'),
  Python: await skipWithout('python'),
  Rust: await skipWithout('protoc', 'cargo'),
  Java: await skipWithout('protoc', 'javaPlugin'),
};
const page = await readPage();

void describe('clients in other languages', { concurrency: 1 }, () => {
  let folder: string;
  let remove: () => Promise<void>;
  let proto: string;
  let server: ServerProcess | undefined;

  before(async () => {
    ({ path: folder, remove } = await temporaryDir());
    proto = join(await packInto(folder), 'proto');
    const args = ['serve', ...ANY_PORT, '--data-dir', join(folder, 'data')];
    server = await new ServerProcess(args).ready();
  });

  after(async () => {
    const code = await server?.end();
    // Go's modules may be read-only.
    await run(folder, 'chmod -R u+w .');
    await remove();
    assert.equal(code, 0);
  });

  /** Does what the page says for a language, and gives what its program prints. */
  async function follow(language: string, program?: string, env: NodeJS.ProcessEnv = {}): Promise<string> {
    const startedMs = performance.now();
    const blocks = blocksOf(language);
    const project = join(folder, language);
    await startProject(project, proto, blocks);
    if (language === 'Rust')
      await cp(join(ROOT, 'test/support/clients/Cargo.lock'), join(project, 'Cargo.lock'));
    if (language === 'TypeScript') await symlink(join(ROOT, 'node_modules'), join(project, 'node_modules'));
    await run(project, withoutInstall(commandsOf(blocks)), env);
    const printed =
      program === undefined
        ? ''
        : await run(project, `${program} ${randomUUID()}`, { ...env, BATON: server?.grpcAddress });
    console.log(`${language}: ${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
    return printed.trim();
  }

  const generated = async (...path: string[]): Promise<string> => readFile(join(folder, ...path), 'utf8');

  void test('the package has the contract, and of Google what it imports and its errors carry', async () => {
    const files = (await readdir(proto, { recursive: true })).filter((name) => name.endsWith('.proto'));
    const own = (await readdir(join(ROOT, 'proto', 'baton', 'v1'))).map((name) => join('baton', 'v1', name));
    const googles = ['error_details', 'status'].map((name) => join('google', 'rpc', `${name}.proto`));
    assert.deepEqual(files.sort(), [...own, ...googles].sort());
    for (const name of own)
      assert.equal(
        await readFile(join(proto, name), 'utf8'),
        await readFile(join(ROOT, 'proto', name), 'utf8'),
      );
  });

  void test('every language of the page is tried', () => {
    const tried = ['Go', 'Python', 'Rust', 'TypeScript', 'Java', 'C#'];
    const described = [...page].filter(([, blocks]) => blocks.length > 0).map(([title]) => title);
    assert.deepEqual(described.sort(), tried.sort());
  });

  void test('plain protoc takes the package as it is', { skip: missing.protoc }, async () => {
    const flags = '--include_imports --descriptor_set_out=/dev/null';
    await run(folder, `protoc -I '${proto}' ${flags} '${proto}'/baton/v1/*.proto`);
  });

  void test('buf takes the package as it is', async () => {
    const buf = join(ROOT, 'node_modules', '.bin', 'buf');
    const empty = join(folder, 'buf');
    await mkdir(empty);
    await run(
      empty,
      `'${buf}' build '${proto}' -o /dev/null && '${buf}' generate '${proto}' --template '${BUF_TEMPLATE}'`,
      {
        PATH: `${join(ROOT, 'node_modules', '.bin')}:${process.env['PATH']}`,
      },
    );
    assert.ok(existsSync(join(empty, 'gen', 'baton', 'v1', 'job_service_pb.js')));
  });

  void test('Go: protoc-gen-go and grpc-go', { skip: missing.Go }, async () => {
    const bin = join(folder, 'go-bin');
    const env = { GOBIN: bin, GOWORK: 'off', PATH: `${bin}:${process.env['PATH']}` };
    assert.equal(await follow('Go', 'go run .', env), PRINTED);
  });

  void test('Python: grpcio-tools', { skip: missing.Python }, async () => {
    assert.equal(await follow('Python', '.venv/bin/python main.py'), PRINTED);
  });

  void test('Rust: tonic', { skip: missing.Rust }, async () => {
    const env = {
      CARGO_TARGET_DIR: join(folder, 'target'),
      CARGO_PROFILE_DEV_DEBUG: '0',
      CARGO_INCREMENTAL: '0',
    };
    assert.equal(await follow('Rust', 'cargo run --quiet --locked --', env), PRINTED);
  });

  void test('TypeScript: protoc-gen-es and Connect', async () => {
    assert.equal(await follow('TypeScript', 'node main.mjs'), PRINTED);
    const { dependencies, devDependencies } = JSON.parse(
      await readFile(join(ROOT, 'package.json'), 'utf8'),
    ) as Record<string, Record<string, string>>;
    // What the page installs is what is tested here.
    const installed = [...commandsOf(blocksOf('TypeScript')).matchAll(/(@[\w-]+\/[\w-]+)@(\S+)/g)];
    assert.equal(installed.length, 5);
    for (const [, name = '', version] of installed)
      assert.equal(version, { ...devDependencies, ...dependencies }[name], name);
  });

  void test('Java: protoc and grpc-java', { skip: missing.Java }, async () => {
    await follow('Java');
    for (const name of ['Run', 'ClaimNextRequest', 'RunState', 'JobServiceGrpc', 'PipelineServiceGrpc'])
      assert.match(
        await generated('Java', 'java', 'dev', 'baton', 'v1', `${name}.java`),
        /^package dev\.baton\.v1;/m,
      );
  });

  void test('C#: protoc', { skip: missing.protoc }, async () => {
    await follow('C#');
    const names = ['Error', 'Filter', 'JobService', 'Pipeline', 'PipelineService', 'Run', 'RunEvent'];
    const files = (await readdir(join(folder, 'C#', 'csharp'))).sort();
    assert.deepEqual(
      files,
      names.map((name) => `${name}.cs`),
    );
    for (const file of files) assert.match(await generated('C#', 'csharp', file), /^namespace Baton\.V1 \{/m);
  });
});

const BUF_TEMPLATE =
  '{"version": "v2", "plugins": [{"local": "protoc-gen-es", "out": "gen", "opt": "target=js"}]}';

function blocksOf(language: string): readonly Block[] {
  const blocks = page.get(language);
  assert.ok(blocks !== undefined && blocks.length > 0, `docs/clients.md has nothing for ${language}`);
  return blocks;
}

/** The packages of npm are those of this repository; the page's versions are compared instead. */
const withoutInstall = (commands: string): string => commands.replace(/^npm install .*\n/gm, '');
