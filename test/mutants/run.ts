/**
 * Breaks the program in every way of the lists in test/mutants/, one at a time in a copy of what was compiled, and runs
 * the named test that has to fail. Arguments are parts of names. Ends with 1 when a mutant survives or no longer applies.
 */
import { spawn } from 'node:child_process';
import { chmod, cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import pg from 'pg';
import type { migrate as Migrate } from '../../src/store/migrate.js';
import { startEmbeddedPostgres } from '../../src/store/embedded/embedded-postgres.js';
import { silent } from '../support/database.js';
import { createPool } from '../../src/store/pool.js';
import { ALL_MUTANTS } from './all.js';
import { rewrite } from './log.js';
import type { Edit, FunctionEdit, Mutant } from './mutant.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const TEMPLATE = 'baton_template';
/** Longer than tests wait for anything: what is ended before it has failed is not caught. */
const FILE_TIMEOUT_MS = 150_000;
const SETTINGS = { fsync: 'off', full_page_writes: 'off', max_connections: '100' };

const interrupt = new AbortController();
const interrupted = interrupt.signal;
// Not once: a second one would end the clean-up half way.
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => interrupt.abort(new Error(`ended by ${signal}`)));

interface Outcome {
  readonly passed: ReadonlySet<string>;
  readonly failed: ReadonlySet<string>;
  readonly output: string;
}

/** Runs tests of the copy by name, and reads from their protocol which passed; what broke otherwise did neither. */
async function runTests(
  copy: string,
  databaseUrl: string,
  testFile: string,
  names: readonly string[],
): Promise<Outcome> {
  const literal = (name: string): string => name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  const patterns = names.map((name) => `--test-name-pattern=^${literal(name)}$`);
  const child = spawn(
    process.execPath,
    [
      '--test',
      '--test-reporter=tap',
      `--test-timeout=${FILE_TIMEOUT_MS}`,
      ...patterns,
      join(copy, `dist/test/${testFile}.test.js`),
    ],
    {
      env: { ...process.env, BATON_TEST_SLACK: '2', BATON_TEST_PG18_URL: databaseUrl },
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const end = (): void => void child.kill();
  interrupted.addEventListener('abort', end);
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  await new Promise((resolve) => child.once('close', resolve));
  interrupted.removeEventListener('abort', end);
  interrupted.throwIfAborted();
  const named = (pattern: RegExp): Set<string> =>
    new Set([...output.matchAll(pattern)].map((match) => (match[1] ?? '').trim()));
  return {
    passed: named(/^ *ok \d+ - (.*?)(?: #.*)?$/gm),
    failed: named(/^ *not ok \d+ - (.*?)(?: #.*)?$/gm),
    output,
  };
}

/** What the test said, so that a reader sees that it failed for the right reason and not for a slip in the mutant. */
function reasonIn(tap: string): string {
  const match = /^ *error: (?:\|-\n *)?'?(.*?)'?$/m.exec(tap);
  return ` because: ${(match?.[1] ?? '?').slice(0, 120)}`;
}

async function apply(copy: string, { file, from, to }: Edit): Promise<() => Promise<void>> {
  const path = join(copy, file);
  const text = await readFile(path, 'utf8');
  const found = text.split(from).length - 1;
  if (found !== 1) throw new Error(`mutant no longer applies: ${file} has its text ${found} times`);
  await writeFile(
    path,
    text.replace(from, () => to),
  );
  return () => writeFile(path, text);
}

function templateUrl(clusterUrl: string): string {
  const url = new URL(clusterUrl);
  url.pathname = `/${TEMPLATE}`;
  return url.toString();
}

async function rewriteFunction(clusterUrl: string, { name, from, to }: FunctionEdit): Promise<void> {
  const pool = createPool({ databaseUrl: templateUrl(clusterUrl), connections: 1, log: silent });
  try {
    await rewrite(name, [from, to])(pool);
  } finally {
    await pool.close();
  }
}

/** The template of the tests' databases, from the migrations of the copy. */
async function makeTemplate(copy: string, clusterUrl: string, attempt: number): Promise<void> {
  const client = new pg.Client({ connectionString: clusterUrl });
  await client.connect();
  await client.query(`drop database if exists ${TEMPLATE}`);
  await client.query(`create database ${TEMPLATE}`);
  await client.end();
  const url = templateUrl(clusterUrl);
  // Loaded from the copy, because the migrations lie beside the program.
  const module = pathToFileURL(join(copy, 'dist/src/store/migrate.js')).href;
  const { migrate } = (await import(`${module}?${attempt}`)) as { migrate: typeof Migrate };
  await migrate({ databaseUrl: url, log: silent });
}

async function isCaught(copy: string, clusterUrl: string, mutant: Mutant): Promise<string> {
  const undo: (() => Promise<void>)[] = [];
  const { functionEdit, testFile, caughtBy } = mutant;
  const migrates =
    functionEdit !== undefined || mutant.edits.some(({ file }) => file.startsWith('migrations/'));
  try {
    for (const edit of mutant.edits) undo.push(await apply(copy, edit));
    if (migrates) await makeTemplate(copy, clusterUrl, 1);
    if (functionEdit !== undefined) await rewriteFunction(clusterUrl, functionEdit);
    const { passed, failed, output } = await runTests(copy, clusterUrl, testFile, [caughtBy]);
    if (failed.has(caughtBy)) return `caught${reasonIn(output)}`;
    return passed.has(caughtBy) ? 'SURVIVED' : `BROKEN: the test did not run\n${output}`;
  } catch (error) {
    interrupted.throwIfAborted();
    return `BROKEN: ${error instanceof Error ? error.message : String(error)}`;
  } finally {
    for (const step of undo.reverse()) await step();
    if (migrates) await makeTemplate(copy, clusterUrl, 2);
  }
}

const wanted = process.argv.slice(2);
const mutants = ALL_MUTANTS.filter(
  ({ name }) => wanted.length === 0 || wanted.some((part) => name.includes(part)),
);
const copy = await mkdtemp(join(tmpdir(), 'baton-mutants-'));
await chmod(copy, 0o755);
let survivors = 0;
let stop = async (): Promise<void> => undefined;
try {
  await cp(join(ROOT, 'dist'), join(copy, 'dist'), { recursive: true });
  await cp(join(ROOT, 'migrations'), join(copy, 'migrations'), { recursive: true });
  for (const name of ['node_modules', 'package.json']) await symlink(join(ROOT, name), join(copy, name));
  const cluster = await startEmbeddedPostgres({
    dataDir: join(copy, 'pg'),
    systemDir: join(copy, 'system'),
    log: silent,
    settings: SETTINGS,
  });
  stop = () => cluster.stop();
  await makeTemplate(copy, cluster.url, 0);
  for (const testFile of new Set(mutants.map((mutant) => mutant.testFile))) {
    const names = new Set(mutants.filter((one) => one.testFile === testFile).map(({ caughtBy }) => caughtBy));
    const sound = await runTests(copy, cluster.url, testFile, [...names]);
    for (const name of names) {
      if (sound.passed.has(name) && !sound.failed.has(name)) continue;
      survivors += 1;
      console.log(`BROKEN without any mutant: ${name}\n${sound.output}`);
    }
  }
  for (const mutant of survivors === 0 ? mutants : []) {
    const from = performance.now();
    const verdict = await isCaught(copy, cluster.url, mutant);
    const [word, reason = ''] = verdict.split(' because: ');
    if (word !== 'caught') survivors += 1;
    const seconds = ((performance.now() - from) / 1000).toFixed(1);
    console.log(`${word?.padEnd(8)} ${seconds.padStart(5)} s  ${mutant.name}  (${mutant.caughtBy})`);
    if (reason !== '') console.log(`                   ${reason}`);
  }
} finally {
  await stop();
  await rm(copy, { recursive: true, force: true });
}
console.log(survivors === 0 ? `all ${mutants.length} mutants were caught` : `${survivors} were not caught`);
process.exitCode = survivors === 0 ? 0 : 1;
