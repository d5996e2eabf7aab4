/** Every benchmark runs, prints all its rows with numbers in them, and leaves nothing. How fast is not looked at. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { HOSTILE } from '../../bench/support/hostile_requests.js';
import { Program } from '../support/example_ci.js';
import { temporaryDir } from '../support/process.js';
import { within } from '../support/wait.js';

const RUN = fileURLToPath(new URL('../../bench/run.js', import.meta.url));
const PACKAGES = fileURLToPath(new URL('../../../bench/node_modules/', import.meta.url));
const SMOKE_TIMEOUT_MS = 180_000;

interface Results {
  readonly bench: string;
  readonly smoke: boolean;
  readonly machine: Readonly<Record<string, string | number>>;
  readonly packages: Readonly<Record<string, string>>;
  readonly postgres: Readonly<Record<string, string>>;
  readonly rows: readonly {
    readonly row: string;
    readonly median: Readonly<Record<string, number>>;
    readonly runs: readonly object[];
  }[];
  readonly ratios: Readonly<Record<string, number>>;
  readonly goals: readonly { readonly text: string; readonly value: number; readonly met: boolean }[];
}

/** Every left part with every right one. */
const each = (left: readonly string[], right: readonly string[]): string[] =>
  left.flatMap((a) => right.map((b) => `${a}${b}`));

const CALLS = ['CreateRun', 'ClaimNext', 'UpdateStatus', 'UpdateStatus + claim_next'];

/** By benchmark: the rows that a smoke run prints, and how many goals. */
const EXPECTED: Readonly<Record<string, { readonly rows: readonly string[]; readonly goals: number }>> = {
  unary: {
    rows: [
      ...each(['', 'empty call, as '], CALLS),
      ...each(['pg-boss: '], ['send', 'fetch + complete']),
      ...each(['graphile-worker: '], ['addJob', 'job by job']),
    ],
    goals: 3,
  },
  batch: {
    rows: each(
      ['Baton: ', 'bare SQL: ', 'graphile-worker: ', 'pg-boss: ', 'BullMQ: '],
      ['create', 'claim + complete'],
    ),
    goals: 4,
  },
  latency: {
    rows: [
      ...each(['Baton, ', 'graphile-worker, ', 'graphile-worker, local queue, '], ['idle', '50/s', '100/s']),
      ...each(['watch, 20 streams'], ['', ', 2 more stalled']),
    ],
    goals: 10,
  },
  health: {
    rows: each(each(['Baton', 'graphile-worker', 'pg-boss'], [', backlog 10', ', backlog 2000']), [
      ', clean',
      ', old snapshot',
      ', open xid',
      ', idle slot',
    ]),
    goals: 18,
  },
  fanout: {
    rows: each(
      ['Baton', 'raw http2', 'etcd'],
      [
        ...each([', 1 streams, ', ', 10 streams, '], ['10/s', '100/s', '1000/s', 'burst of 200']),
        ...each([', 100 streams, '], ['10/s', '100/s', 'burst of 200']),
      ],
    ),
    goals: 3,
  },
  scale: {
    rows: [
      ...each(['1 server', '2 servers', '4 servers'], [': CreateRun', ': UpdateStatus + claim_next']),
      ...each(['1', '10', '100'], [' streams, 20/s']),
    ],
    goals: 5,
  },
  hurt: {
    rows: Object.entries(HOSTILE)
      .flatMap(([name, { ways }]) => ways.map((way) => `${name}, ${way}`))
      .map((row, index) => `${row}, ${index % 2 === 0 ? 'alone' : 'many at once'}`),
    goals: 4,
  },
};

/** What a benchmark cannot do without. */
const NEEDS: Readonly<Record<string, { readonly path: string; readonly how: string }>> = {
  fanout: { path: '/usr/bin/etcd', how: 'apt-get install etcd-server' },
};
const PEERS = { path: PACKAGES, how: 'npm ci --prefix bench' };

function whatIsMissing(name: string): string | undefined {
  const missing = [PEERS, ...(NEEDS[name] === undefined ? [] : [NEEDS[name]])].find(
    ({ path }) => !existsSync(path),
  );
  if (missing === undefined) return undefined;
  const text = `${missing.path} is not there: ${missing.how}`;
  if (process.env['BATON_REQUIRE_ALL'] === '1') throw new Error(text);
  return text;
}

/** Runs to the end in a temporary folder of its own, which has to be empty then. */
async function smoke(name: string): Promise<{ output: string; results: Results }> {
  const [temporary, out] = await Promise.all([temporaryDir(), temporaryDir()]);
  try {
    const args = [RUN, name, '--smoke', '--out', out.path];
    const program = new Program({ program: process.execPath, args, env: { TMPDIR: temporary.path } });
    const code = await within(program.exited, `the benchmark ${name}`, SMOKE_TIMEOUT_MS).finally(() =>
      program.child.kill('SIGTERM'),
    );
    assert.equal(code, 0, program.output);
    assert.deepEqual(await readdir(temporary.path), [], 'it left something in the temporary folder');
    const files = await readdir(out.path);
    assert.equal(files.length, 1);
    const file = join(out.path, files[0] ?? '');
    assert.ok(program.output.includes(`results ${file}`), 'it says where the results are');
    return { output: program.output, results: JSON.parse(await readFile(file, 'utf8')) as Results };
  } finally {
    await Promise.all([temporary.remove(), out.remove()]);
  }
}

function assertFinite(values: Readonly<Record<string, number>>, where: string): void {
  assert.ok(Object.keys(values).length > 0, `${where} has no numbers`);
  for (const [name, value] of Object.entries(values))
    assert.ok(Number.isFinite(value), `${where}, ${name}: ${value}`);
}

void describe('bench', () => {
  for (const [name, expected] of Object.entries(EXPECTED)) {
    test(`bench: ${name} runs and prints all its rows`, { skip: whatIsMissing(name) ?? false }, async () => {
      const { output, results } = await smoke(name);
      assert.deepEqual(results.rows.map(({ row }) => row).sort(), [...expected.rows].sort());
      for (const { row, median, runs } of results.rows) {
        // JSON has null for what is not finite.
        assertFinite(median, row);
        assert.equal(runs.length, 1);
        assert.ok(output.includes(`\n${row} `), `${row} is not printed`);
      }
      // What is judged in milliseconds and MiB has none.
      if (name !== 'hurt') assertFinite(results.ratios, 'ratios');
      assert.equal(results.goals.length, expected.goals);
      for (const { text, value, met } of results.goals) {
        assertFinite({ value }, text);
        assert.ok(output.includes(`${met ? 'met   ' : 'MISSED'}  ${text}`), `${text} is not printed`);
      }
      assert.deepEqual([results.bench, results.smoke], [name, true]);
      assert.ok(Number(results.machine['cores']) > 0);
      assert.equal(results.postgres['fsync'], 'on');
      assert.match(results.postgres['server_version'] ?? '', /^18\./);
      for (const [peer, version] of Object.entries(results.packages)) assert.match(version, /^\d+\./, peer);
    });
  }

  test('bench: an unknown name is refused with the names that there are', async () => {
    const program = new Program({ program: process.execPath, args: [RUN, 'nothing'] });
    const code = await within(program.exited, 'the refusal');
    assert.equal(code, 1);
    for (const name of Object.keys(EXPECTED)) assert.ok(program.output.includes(name), program.output);
  });
});
