/**
 * Breaks the watch in every way of test/mutants/watch.ts, one at a time in a copy of the compiled program, and runs the
 * named test that has to fail. Arguments are parts of names. Ends with 1 when a mutant survives or no longer applies.
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
import { WATCH_MUTANTS, type Edit, type WatchMutant } from './watch.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const TEST_FILE = 'dist/test/mutants_watch.test.js';
const TEMPLATE = 'baton_template';
const SETTINGS = { fsync: 'off', full_page_writes: 'off', max_connections: '100' };

interface Outcome {
  readonly passed: ReadonlySet<string>;
  readonly failed: ReadonlySet<string>;
  readonly output: string;
}

/** Runs tests of the copy by name, and reads from their protocol which passed; what broke otherwise did neither. */
async function runTests(copy: string, databaseUrl: string, names: readonly string[]): Promise<Outcome> {
  const patterns = names.map((name) => `--test-name-pattern=^${name}$`);
  const child = spawn(
    process.execPath,
    ['--test', '--test-reporter=tap', '--test-timeout=30000', ...patterns, join(copy, TEST_FILE)],
    { env: { ...process.env, BATON_TEST_PG18_URL: databaseUrl }, stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  await new Promise((resolve) => child.once('close', resolve));
  const named = (pattern: RegExp): Set<string> =>
    new Set([...output.matchAll(pattern)].map((match) => (match[1] ?? '').trim()));
  return {
    passed: named(/^ *ok \d+ - (.*?)(?: #.*)?$/gm),
    failed: named(/^ *not ok \d+ - (.*?)(?: #.*)?$/gm),
    output,
  };
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

/** The template of the tests' databases, from the migrations of the copy. */
async function makeTemplate(copy: string, clusterUrl: string, attempt: number): Promise<void> {
  const client = new pg.Client({ connectionString: clusterUrl });
  await client.connect();
  await client.query(`drop database if exists ${TEMPLATE}`);
  await client.query(`create database ${TEMPLATE}`);
  await client.end();
  const url = new URL(clusterUrl);
  url.pathname = `/${TEMPLATE}`;
  // Loaded from the copy, because the migrations lie beside the program.
  const module = pathToFileURL(join(copy, 'dist/src/store/migrate.js')).href;
  const { migrate } = (await import(`${module}?${attempt}`)) as { migrate: typeof Migrate };
  await migrate({ databaseUrl: url.toString(), log: silent });
}

async function isCaught(copy: string, clusterUrl: string, mutant: WatchMutant): Promise<string> {
  const undo: (() => Promise<void>)[] = [];
  const migrates = mutant.edits.some(({ file }) => file.startsWith('migrations/'));
  try {
    for (const edit of mutant.edits) undo.push(await apply(copy, edit));
    if (migrates) await makeTemplate(copy, clusterUrl, 1);
    const { passed, failed, output } = await runTests(copy, clusterUrl, [mutant.caughtBy]);
    if (failed.has(mutant.caughtBy)) return 'caught';
    return passed.has(mutant.caughtBy) ? 'SURVIVED' : `BROKEN: the test did not run\n${output}`;
  } catch (error) {
    return `BROKEN: ${error instanceof Error ? error.message : String(error)}`;
  } finally {
    for (const step of undo.reverse()) await step();
    if (migrates) await makeTemplate(copy, clusterUrl, 2);
  }
}

const wanted = process.argv.slice(2);
const mutants = WATCH_MUTANTS.filter(
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
  const names = [...new Set(mutants.map(({ caughtBy }) => caughtBy))];
  const sound = await runTests(copy, cluster.url, names);
  for (const name of names) {
    if (sound.passed.has(name)) continue;
    survivors += 1;
    console.log(`BROKEN without any mutant: ${name}\n${sound.output}`);
  }
  for (const mutant of survivors === 0 ? mutants : []) {
    const from = performance.now();
    const verdict = await isCaught(copy, cluster.url, mutant);
    if (verdict !== 'caught') survivors += 1;
    const seconds = ((performance.now() - from) / 1000).toFixed(1);
    console.log(`${verdict.padEnd(8)} ${seconds.padStart(5)} s  ${mutant.name}  (${mutant.caughtBy})`);
  }
} finally {
  await stop();
  await rm(copy, { recursive: true, force: true });
}
console.log(survivors === 0 ? `all ${mutants.length} mutants were caught` : `${survivors} were not caught`);
process.exitCode = survivors === 0 ? 0 : 1;
