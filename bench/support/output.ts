import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isMet, type Goal, type Report } from './bench.js';
import { medians, rounded, type Measures } from './stats.js';

/** As seen from `dist/bench/support/`. */
const RESULTS = new URL('../../../bench/results/', import.meta.url);

/** Columns are the measures that any row has; a row leaves empty what it does not have. */
function table(rows: Readonly<Record<string, Measures>>): string {
  const columns = [...new Set(Object.values(rows).flatMap((row) => Object.keys(row)))];
  const lines = [
    ['', ...columns],
    ...Object.entries(rows).map(([name, row]) => [
      name,
      ...columns.map((column) => (row[column] === undefined ? '' : String(rounded(row[column])))),
    ]),
  ];
  const widths = ['', ...columns].map((_, index) =>
    Math.max(...lines.map((line) => line[index]?.length ?? 0)),
  );
  return lines
    .map((line) =>
      line
        .map((cell, index) => (index === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[index] ?? 0)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function goalLine(goal: Goal): string {
  const bound = goal.atLeast === undefined ? `<= ${goal.atMost}` : `>= ${goal.atLeast}`;
  return `${isMet(goal) ? 'met   ' : 'MISSED'}  ${goal.text} ${bound}: ${rounded(goal.value)}`;
}

export interface Circumstances {
  readonly bench: string;
  readonly smoke: boolean;
  readonly options: Readonly<Record<string, number | boolean>>;
  readonly machine: Readonly<Record<string, string | number>>;
  readonly packages: Readonly<Record<string, string>>;
  readonly postgres: Readonly<Record<string, string>>;
}

const pairs = (values: object): string =>
  Object.entries(values)
    .map(([key, value]) => `${key} ${value}`)
    .join(' · ');

/** The report for people. */
export function formatReport(circumstances: Circumstances, report: Report): string {
  const rows = Object.fromEntries(Object.entries(report.rows).map(([name, runs]) => [name, medians(runs)]));
  const runs = Math.max(...Object.values(report.rows).map(({ length }) => length));
  return [
    `${circumstances.bench}: medians of ${runs} run${runs === 1 ? '' : 's'}${circumstances.smoke ? ' (smoke: the numbers mean nothing)' : ''}`,
    '',
    `machine    ${pairs(circumstances.machine)}`,
    `packages   ${pairs(circumstances.packages)}`,
    `postgres   ${pairs(circumstances.postgres)}`,
    `options    ${pairs(circumstances.options)}`,
    '',
    table(rows),
    '',
    ...Object.entries(report.ratios).map(([name, value]) => `ratio   ${name}: ${rounded(value)}`),
    ...report.goals.map(goalLine),
    ...report.notes.map((note) => `note    ${note}`),
  ].join('\n');
}

/**
 * @param dir default `bench/results`
 * @returns the path of the file with all that was measured
 */
export async function writeResults(
  circumstances: Circumstances,
  report: Report,
  dir: string = fileURLToPath(RESULTS),
): Promise<string> {
  await mkdir(dir, { recursive: true });
  const date = new Date().toISOString();
  const name = `${circumstances.bench}-${circumstances.smoke ? 'smoke-' : ''}${date.replaceAll(':', '').slice(0, 17)}.json`;
  const path = join(dir, name);
  const goals = report.goals.map((goal) => ({ ...goal, met: isMet(goal) }));
  const rows = Object.entries(report.rows).map(([row, runs]) => ({ row, median: medians(runs), runs }));
  await writeFile(
    path,
    `${JSON.stringify({ date, ...circumstances, rows, ratios: report.ratios, goals, notes: report.notes }, null, 2)}\n`,
  );
  return path;
}
