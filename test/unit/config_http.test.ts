/** Names and origins of the HTTP port as settings: read from flags and from the environment, and refused when they are none. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Command } from 'commander';
import { SERVE_OPTIONS, toServeConfig, type ServeConfig, type ServeFlags } from '../../src/config.js';

type Names = Pick<ServeConfig, 'httpHosts' | 'httpOrigins'>;

/** What a server would be started with. */
function configure(flags: readonly string[], env: Readonly<Record<string, string>> = {}): Names {
  const before = { ...process.env };
  for (const name of ['BATON_HTTP_HOSTS', 'BATON_HTTP_ORIGINS', 'BATON_HTTP_LISTEN'])
    delete process.env[name];
  Object.assign(process.env, env);
  try {
    const command = new Command().exitOverride().configureOutput({ writeErr: () => undefined });
    for (const option of SERVE_OPTIONS) command.addOption(option);
    command.parse(flags, { from: 'user' });
    const { httpHosts, httpOrigins } = toServeConfig(command.opts<ServeFlags>());
    return { httpHosts, httpOrigins };
  } finally {
    process.env = before;
  }
}

test('hosts and origins come from flags and the environment, and are none by default', () => {
  const own = '127.0.0.1';
  assert.deepEqual(configure([]), { httpHosts: [own], httpOrigins: [] });
  const env = { BATON_HTTP_HOSTS: '', BATON_HTTP_ORIGINS: '' };
  assert.deepEqual(configure([], env), { httpHosts: [own], httpOrigins: [] });
  const names = { BATON_HTTP_HOSTS: 'Baton.Example.com., baton\tjobs_1 ,' };
  assert.deepEqual(configure([], names).httpHosts, ['baton.example.com', 'baton', 'jobs_1', own]);
  assert.deepEqual(configure(['--http-hosts', 'a.b'], names).httpHosts, ['a.b', own]);
  const origins = { BATON_HTTP_ORIGINS: 'https://App.example.com:443,http://localhost:5173 http://[::1]:80' };
  assert.deepEqual(configure([], origins).httpOrigins, [
    'https://app.example.com',
    'http://localhost:5173',
    'http://[::1]',
  ]);
  assert.deepEqual(configure(['--http-origins', 'app://board']).httpOrigins, ['app://board']);
});

test('the name that a server listens on is one of its own', () => {
  const flags = ['--http-listen', 'Baton.internal:8080', '--insecure-public-listen'];
  assert.deepEqual(configure(flags).httpHosts, ['baton.internal']);
});

test('what is no name or no origin is refused, and named', () => {
  const hosts = [
    'baton.example.com:8080',
    'http://baton',
    '*',
    '*.example.com',
    'a/b',
    'a..b',
    '.a',
    'me@a',
    '[::1]',
  ];
  for (const bad of hosts)
    assert.throws(() => configure(['--http-hosts', `good, ${bad}`]), {
      message: new RegExp(`host names.*${literal(bad)}`),
    });
  const origins = [
    '*',
    'null',
    'app.example.com',
    'https://a/',
    'https://a/b',
    'https://a?b',
    'https://*.a',
    'https://',
    'https://me@a',
  ];
  for (const bad of origins)
    assert.throws(
      () => configure(['--http-origins', bad]),
      { message: new RegExp(`origins.*${literal(bad)}`) },
      bad,
    );
});

function literal(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
