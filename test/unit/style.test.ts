/**
 * Habits that a machine can hold and the linter does not. Each rule is also run on a text that breaks it and on one
 * that only looks like it.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join, sep } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** Where people write. What is not there yet is passed over. */
const WRITTEN = ['src', 'test', 'bench', 'examples', 'proto', 'migrations', 'docs', '.ci'] as const;
const WRITTEN_AT_TOP = /^(README|CHANGELOG|CONTRIBUTING)\.md$|^package\.json$|^\.oxlintrc\.json$/;
const TEXT = /\.(ts|sql|proto|md|json|ya?ml|py|go|sh|html|css)$|\/run$/;
/** Made by tools, or the work of others. */
const NOT_OURS = /(^|\/)(node_modules|dist|\.build|\.baton|__pycache__|gen)\//;

/** The habit says about 300; this is where a file has to be split. */
const SOURCE_LINES_MAX = 350;

interface Rule {
  readonly name: string;
  readonly appliesTo: (file: string) => boolean;
  /** Says what is wrong with a text, or nothing. */
  readonly check: (text: string) => string | undefined;
}

/** Finds a pattern and shows the line that it is in. */
function refuse(pattern: RegExp): Rule['check'] {
  return (text) => {
    const lines = text.split('\n');
    const index = lines.findIndex((line) => pattern.test(line));
    return index < 0 ? undefined : `line ${index + 1}: ${lines[index]?.trim()}`;
  };
}

const isTypeScript = (file: string): boolean => file.endsWith('.ts');

// The patterns are written so that they do not find themselves here.
const RULES = {
  length: {
    name: `a source file has at most ${SOURCE_LINES_MAX} lines`,
    appliesTo: (file) => file.startsWith('src/'),
    check: (text) => {
      const lines = text.trimEnd().split('\n').length;
      return lines > SOURCE_LINES_MAX ? `${lines} lines` : undefined;
    },
  },
  machinePath: {
    name: 'no path of one machine',
    appliesTo: () => true,
    check: refuse(/(?<![\w.)}\]-])\/(work|root|home\/\w+|tmp\/bash\w*)\/(?=\w)/),
  },
  unfinished: {
    name: 'nothing is marked as unfinished',
    appliesTo: () => true,
    check: refuse(/\b(TOD[O]|FIXM[E]|HAC[K]|XX[X])\b/),
  },
  silenced: {
    name: 'the compiler is not silenced',
    appliesTo: isTypeScript,
    check: refuse(/@ts-(ignor[e]|nochec[k])/),
  },
  any: {
    name: 'nothing is cast to any',
    appliesTo: isTypeScript,
    check: refuse(/\bas an[y]\b(?! [a-z])|<an[y]>(?=[\w(])/),
  },
  chance: {
    name: 'chance in tests comes from a seed that a failure prints, test/support/seed.ts',
    appliesTo: (file) => isTypeScript(file) && file.startsWith('test/') && file !== 'test/support/seed.ts',
    check: refuse(/\bMath\.rando[m]\b|Date\.now\(\) [%]/),
  },
  properties: {
    name: 'properties are checked by the fast-check of test/support/seed.ts, which has the seed',
    appliesTo: (file) => file.endsWith('.test.ts'),
    check: refuse(/^import .*'fast-chec[k]'/),
  },
} satisfies Record<string, Rule>;

function writtenFiles(): string[] {
  const below = WRITTEN.filter((folder) => existsSync(join(ROOT, folder))).flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).map((name) =>
      `${folder}/${name}`.split(sep).join('/'),
    ),
  );
  const top = readdirSync(ROOT).filter((name) => WRITTEN_AT_TOP.test(name));
  return [...below.filter((file) => TEXT.test(file) && !NOT_OURS.test(file)), ...top].filter((file) =>
    statSync(join(ROOT, file)).isFile(),
  );
}

for (const rule of Object.values<Rule>(RULES)) {
  test(`style: ${rule.name}`, () => {
    const files = writtenFiles().filter((file) => rule.appliesTo(file));
    assert.ok(files.length > 50, `only ${files.length} files were found`);
    const problems = files.flatMap((file) => {
      const problem = rule.check(readFileSync(join(ROOT, file), 'utf8'));
      return problem === undefined ? [] : [`${file}: ${problem}`];
    });
    assert.deepEqual(problems, []);
  });
}

const line = 'const a = 1;\n';
const glue = (...parts: string[]): string => parts.join('');
/** Texts that break a rule, put together so that this file does not. */
const BAD: Readonly<Record<keyof typeof RULES, readonly string[]>> = {
  length: [line.repeat(SOURCE_LINES_MAX + 1)],
  machinePath: [
    glue("const dir = '/wo", "rk/main';"),
    glue('see /ro', 'ot/notes.txt'),
    glue('/ho', 'me/ann/baton'),
    glue('cat /tm', 'p/bash_jobs/1'),
  ],
  unfinished: [glue('// TO', 'DO: more'), glue('-- FIX', 'ME'), glue('/* HA', 'CK */')],
  silenced: [glue('// @ts-ig', 'nore'), glue('// @ts-no', 'check')],
  any: [
    glue('const a = b as a', 'ny;'),
    glue('(b as a', 'ny).c'),
    glue('f(b as a', 'ny, 1)'),
    glue('f(<a', 'ny>b)'),
  ],
  chance: [glue('const n = Math.ran', 'dom();'), glue('const seed = Date.now() ', '% 1000;')],
  properties: [glue("import fc from 'fast-che", "ck';")],
};
const GOOD: Readonly<Record<keyof typeof RULES, readonly string[]>> = {
  length: [line.repeat(SOURCE_LINES_MAX)],
  machinePath: [
    'src/work/a.ts',
    '`${dir}/work/a`',
    '../work/a',
    '/var/lib/baton',
    '/tmp/x',
    'the /root folder',
  ],
  unfinished: ['todos', 'a hackathon'],
  silenced: ['// @ts-expect-error: why'],
  chance: ['const now = Date.now();', 'const n = random.next();'],
  properties: ["import { fc } from '../support/seed.js';"],
  any: ['/** An error as any client sees it. */', 'as many', 'as unknown'],
};

for (const [key, rule] of Object.entries(RULES) as [keyof typeof RULES, Rule][]) {
  test(`style: the check is able to fail: ${rule.name}`, () => {
    for (const text of BAD[key]) assert.ok(rule.check(`${line}${text}`), `not found: ${text}`);
    for (const text of GOOD[key]) assert.equal(rule.check(text), undefined);
  });
}

test('style: the files that are checked are the ones people write', () => {
  const files = new Set(writtenFiles());
  for (const file of [
    'src/main.ts',
    'test/unit/style.test.ts',
    'proto/baton/v1/run.proto',
    'migrations/0001_core.sql',
    '.ci/run',
    'CONTRIBUTING.md',
  ])
    assert.ok(files.has(file), `${file} is not checked`);
});
