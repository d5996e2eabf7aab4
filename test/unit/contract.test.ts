import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';

/**
 * The contract as a file: `proto/` is clean, commented and compatible with the last release, and `gen/` follows from
 * it. Each check is also run on a broken copy, so that it is known to be able to fail.
 */

const ROOT = findRoot();
const BUF = join(ROOT, 'node_modules', '.bin', 'buf');
const BASELINE = join(ROOT, 'test', 'contract', 'baton.v1.binpb');
/** buf's exit code for "checked, and found something"; 1 would mean that the check itself did not work. */
const FOUND = 100;
const TIMEOUT_MS = 60_000;

/** The folder with `buf.yaml`: above this file, wherever it was compiled to, or else the working directory. */
function findRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'buf.yaml'))) {
    const parent = dirname(folder);
    if (parent === folder) return process.cwd();
    folder = parent;
  }
  return folder;
}

interface Outcome {
  readonly code: number;
  readonly output: string;
}

/** Runs buf in `folder`. Rejects when it could not be run at all. */
function buf(folder: string, ...args: string[]): Promise<Outcome> {
  return new Promise((done, fail) => {
    execFile(BUF, args, { cwd: folder, timeout: TIMEOUT_MS }, (error, stdout, stderr) => {
      const output = stdout + stderr;
      if (error === null) done({ code: 0, output });
      else if (typeof error.code === 'number') done({ code: error.code, output });
      else fail(error);
    });
  });
}

const lint = (folder: string): Promise<Outcome> => buf(folder, 'lint');
// `proto` and not the whole workspace: the google protos under node_modules are not ours to format.
const format = (folder: string): Promise<Outcome> => buf(folder, 'format', '-d', '--exit-code', 'proto');
// The image is of one module, so it is held against one module.
const breaking = (folder: string): Promise<Outcome> =>
  buf(folder, 'breaking', 'proto', '--against', BASELINE);

function assertPasses(outcome: Outcome): void {
  assert.equal(outcome.code, 0, outcome.output);
}

function assertFinds(outcome: Outcome, expected: RegExp): void {
  assert.equal(outcome.code, FOUND, outcome.output);
  assert.match(outcome.output, expected);
}

/** A folder that is gone when the test is over. */
async function temporaryFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'baton-contract-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A copy of the workspace in which one place of one file is replaced; without an edit it is a plain copy. */
async function workspace(t: TestContext, file?: string, from?: RegExp, to = ''): Promise<string> {
  const folder = await temporaryFolder(t);
  await cp(join(ROOT, 'buf.yaml'), join(folder, 'buf.yaml'));
  await cp(join(ROOT, 'proto'), join(folder, 'proto'), { recursive: true });
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'), 'junction');
  if (file !== undefined && from !== undefined) {
    const path = join(folder, 'proto', 'baton', 'v1', file);
    const before = await readFile(path, 'utf8');
    const after = before.replace(from, to);
    assert.notEqual(after, before, `${file} has nothing that matches ${String(from)}`);
    await writeFile(path, after);
  }
  return folder;
}

/** All files below a folder, by their path relative to it. */
async function readTree(folder: string): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>();
  for (const name of (await readdir(folder, { recursive: true })).toSorted()) {
    const path = resolve(folder, name);
    if ((await stat(path)).isFile()) files.set(name, await readFile(path));
  }
  return files;
}

/** What has to be done to `actual` to make it `expected`; empty when they are equal byte for byte. */
async function differences(expected: string, actual: string): Promise<string[]> {
  const [wanted, found] = await Promise.all([readTree(expected), readTree(actual)]);
  const list: string[] = [];
  for (const [name, content] of wanted) {
    const other = found.get(name);
    if (other === undefined) list.push(`missing: ${name}`);
    else if (!other.equals(content)) list.push(`different: ${name}`);
  }
  for (const name of found.keys()) if (!wanted.has(name)) list.push(`extra: ${name}`);
  return list;
}

void test('contract: lint passes', async () => {
  assertPasses(await lint(ROOT));
});

void test('contract: lint fails when a comment is removed', async (t) => {
  // The control: what fails below fails because of the edit, not because of the copy.
  assertPasses(await lint(await workspace(t)));
  const field = await workspace(t, 'run.proto', /(?: *\/\/.*\n)+(?= *string id = 1;)/);
  assertFinds(await lint(field), /Field "id" should have a non-empty comment/);
  const rpc = await workspace(t, 'job_service.proto', /(?: *\/\/.*\n)+(?= *rpc CreateRun\()/);
  assertFinds(await lint(rpc), /RPC "CreateRun" should have a non-empty comment/);
  const value = await workspace(t, 'run_event.proto', /(?: *\/\/.*\n)+(?= *EVENT_TYPE_CLAIMED)/);
  assertFinds(await lint(value), /Enum value "EVENT_TYPE_CLAIMED" should have a non-empty comment/);
});

void test('contract: the protos are formatted', async () => {
  assertPasses(await format(ROOT));
});

void test('contract: format fails on a changed indent', async (t) => {
  assertPasses(await format(await workspace(t)));
  assertFinds(
    await format(await workspace(t, 'run.proto', / {2}string id = 1;/, 'string  id=1;')),
    /string id = 1/,
  );
});

void test('contract: gen/ is what the protos generate', async (t) => {
  const folder = await temporaryFolder(t);
  assertPasses(await buf(ROOT, 'generate', '--output', folder));
  const wanted = join(folder, 'gen');
  assert.ok((await readTree(wanted)).size > 0, 'nothing was generated');
  assert.deepEqual(await differences(wanted, join(ROOT, 'gen')), [], 'run `npx buf generate`');
});

void test('contract: the comparison sees missing, extra and different files', async (t) => {
  const folder = await temporaryFolder(t);
  const [wanted, found] = [join(folder, 'wanted'), join(folder, 'found')];
  await mkdir(join(wanted, 'deep'), { recursive: true });
  await mkdir(join(found, 'deep'), { recursive: true });
  await writeFile(join(wanted, 'same'), '1');
  await writeFile(join(found, 'same'), '1');
  assert.deepEqual(await differences(wanted, found), []);
  await writeFile(join(wanted, 'deep', 'a'), '1');
  await writeFile(join(wanted, 'deep', 'b'), '1');
  await writeFile(join(found, 'deep', 'b'), '2');
  await writeFile(join(found, 'deep', 'c'), '1');
  const expected = [
    `missing: ${join('deep', 'a')}`,
    `different: ${join('deep', 'b')}`,
    `extra: ${join('deep', 'c')}`,
  ];
  assert.deepEqual(await differences(wanted, found), expected);
});

void test('contract: nothing of the last release is broken', async () => {
  assertPasses(await breaking(ROOT));
});

void test('contract: the breaking check allows additions and refuses breaks', async (t) => {
  const added = await workspace(
    t,
    'run.proto',
    /(message RunError \{)/,
    '$1\n  // A detail.\n  string detail = 3;',
  );
  assertPasses(await breaking(added));
  const deleted = /deleted without reserving/;
  const renumbered = await workspace(t, 'run.proto', /int32 priority = 11;/, 'int32 priority = 1011;');
  assertFinds(await breaking(renumbered), deleted);
  const removed = await workspace(t, 'run.proto', / *int32 priority = 11;\n/);
  assertFinds(await breaking(removed), deleted);
  const renamed = await workspace(t, 'run.proto', /int32 priority = 11;/, 'int32 urgency = 11;');
  assertFinds(await breaking(renamed), /changed name from "priority" to "urgency"/);
  const retyped = await workspace(t, 'run.proto', /int32 priority = 11;/, 'string priority = 11;');
  assertFinds(await breaking(retyped), /changed type from "int32" to "string"/);
  const value = await workspace(t, 'run_event.proto', / *EVENT_TYPE_RETRIED = 12;\n/);
  assertFinds(await breaking(value), deleted);
});
