import type { WatcherSpec } from './watcher.js';

/** Streams of every protocol, with and without filters, light and heavy, fast and slow. */
export function watcherSpecs(hotRuns: readonly string[]): readonly WatcherSpec[] {
  const all = {};
  return [
    { name: 'all over grpc', protocol: 'grpc', filter: all },
    { name: 'all over grpc-js', protocol: 'grpc-js', filter: all, payload: true },
    { name: 'all over connect', protocol: 'connect', filter: all },
    { name: 'all over grpc-web', protocol: 'grpc-web', filter: all },
    { name: 'all since oldest', protocol: 'grpc', filter: all, fromOldest: true },
    { name: 'all, slowly', protocol: 'grpc-js', filter: all, payload: true, slow: true },
    { name: 'status over connect-json', protocol: 'connect-json', filter: { statuses: ['initialized'] } },
    { name: 'statuses with leave', protocol: 'grpc', filter: { statuses: ['running', 'success'] } },
    { name: 'a repository', protocol: 'grpc-js', filter: { repository: "it's r3" } },
    { name: 'labels', protocol: 'grpc-web', filter: { labels: { team: 'a', n: '3' } } },
    { name: 'active', protocol: 'connect', filter: { states: ['ACTIVE'] }, payload: true },
    {
      name: 'ended in a repository',
      protocol: 'grpc',
      filter: { states: ['SUCCEEDED', 'FAILED'], repository: 'r1' },
    },
    {
      name: 'a stage',
      protocol: 'connect-json',
      filter: { stages: ['run'], pipelines: ['ci'] },
      payload: true,
    },
    { name: 'some runs', protocol: 'grpc-js', filter: { runIds: hotRuns } },
    { name: 'nothing', protocol: 'grpc', filter: { repository: 'nobody' } },
    { name: 'state, then a team', protocol: 'grpc', filter: { labels: { team: 'b' } }, withState: true },
    { name: 'state, then what waits', protocol: 'connect', filter: { states: ['PENDING'] }, withState: true },
    { name: 'a team, slowly', protocol: 'connect', filter: { labels: { team: 'c' } }, slow: true },
  ];
}
