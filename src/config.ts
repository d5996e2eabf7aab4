import { Option, InvalidArgumentError } from 'commander';
import { LIMITS } from './base/limits.js';
import { LOG_LEVELS, type LogLevel } from './base/log.js';
import { problemOfUrl } from './store/session.js';

export interface Address {
  readonly host: string;
  /** 0 for any free port. */
  readonly port: number;
}

export interface ServeConfig {
  /** Undefined for the embedded PostgreSQL. */
  readonly databaseUrl: string | undefined;
  readonly listenUrl: string | undefined;
  /** False to find changes by polling only. */
  readonly listen: boolean;
  readonly logRetentionMs: number;
  readonly runRetentionMs: number;
  /** Undefined for streams without a planned end. */
  readonly streamAgeMs: { readonly min: number; readonly max: number } | undefined;
  readonly grpcListen: Address;
  readonly httpListen: Address;
  /** Names under which the HTTP port is asked, in lower case, and origins whose pages may use it. */
  readonly httpHosts: readonly string[];
  readonly httpOrigins: readonly string[];
  readonly dataDir: string;
  readonly poolConnections: number;
  readonly logLevel: LogLevel;
  /** Leave to listen beyond loopback without TLS and authentication. */
  readonly insecurePublicListen: boolean;
}

/** `host:port`, an IPv6 host in brackets. */
export function parseAddress(text: string): Address {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || !(port <= 65535))
    throw new InvalidArgumentError('must be host:port, such as 127.0.0.1:50051');
  return { host, port };
}

export function formatAddress({ host, port }: Address): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

function parseConnections(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > LIMITS.poolConnectionsMax) {
    throw new InvalidArgumentError(`must be 1 to ${LIMITS.poolConnectionsMax}`);
  }
  return value;
}

const UNITS_MS: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `90s`, `30m`, `12h`, `7d`, or 0. */
function parseDuration(text: string): number {
  const match = /^(\d{1,6})([smhd])$/.exec(text);
  if (text !== '0' && match === null)
    throw new InvalidArgumentError('must be a duration such as 90s, 30m, 12h or 7d, or 0');
  return match === null ? 0 : Number(match[1]) * (UNITS_MS[match[2] ?? ''] ?? 0);
}

const SEPARATOR = /[\s,]+/;

/** `baton.example.com, baton.default.svc`: names as they stand in `Host`, without a port. */
function parseHosts(text: string): string[] {
  const names = text.split(SEPARATOR).filter((name) => name !== '');
  const bad = names.find((name) => !/^[\w-]+(\.[\w-]+)*\.?$/.test(name));
  if (bad !== undefined)
    throw new InvalidArgumentError(
      `must be host names without scheme and port, such as baton.example.com, and ${bad} is none`,
    );
  return names.map((name) => name.toLowerCase().replace(/\.$/, ''));
}

/** `https://app.example.com, http://localhost:5173`: as browsers write them in `Origin`. */
function parseOrigins(text: string): string[] {
  return text
    .split(SEPARATOR)
    .filter((origin) => origin !== '')
    .map((origin) => {
      const isOrigin = /^[a-z][a-z\d+.-]*:\/\/[^/?#@*]+$/i.test(origin);
      const url = isOrigin && URL.canParse(origin) ? new URL(origin) : undefined;
      if (url === undefined)
        throw new InvalidArgumentError(
          `must be origins such as https://app.example.com or http://localhost:5173, and ${origin} is none`,
        );
      // Of a scheme that only browsers' extensions or desktop programs have, the class does not know the origin.
      return url.origin === 'null' ? `${url.protocol}//${url.host}` : url.origin;
    });
}

/**
 * Not an `argParser`: commander shows the value that was refused, and this one has a password.
 *
 * @throws Error that names the setting
 */
export function checkUrls(flags: { readonly databaseUrl?: string; readonly listenUrl?: string }): void {
  for (const [name, url] of [
    ['DATABASE_URL (--database-url)', flags.databaseUrl],
    ['BATON_LISTEN_URL (--listen-url)', flags.listenUrl],
  ] as const) {
    const problem = url === undefined ? undefined : problemOfUrl(url);
    if (problem !== undefined) throw new Error(`${name} ${problem}`);
  }
  if (flags.databaseUrl === undefined && flags.listenUrl !== undefined) {
    throw new Error(
      'BATON_LISTEN_URL is set without DATABASE_URL: the embedded PostgreSQL needs no LISTEN URL of its own',
    );
  }
}

const OFF = /^(0|false|no|off)$/i;
const ON = /^(1|true|yes|on)$/i;

/**
 * To be done before commander reads the environment: an empty variable counts as unset, and one of an option without a
 * value as what it says, where commander takes any text for yes.
 *
 * @throws Error that names the variable
 */
export function tidyEnvironment(options: readonly Option[], env: NodeJS.ProcessEnv): void {
  for (const { envVar, required, optional } of options) {
    const value = envVar === undefined ? undefined : env[envVar];
    if (envVar === undefined || value === undefined) continue;
    const takesValue = required || optional;
    if (value === '' || (!takesValue && OFF.test(value))) delete env[envVar];
    else if (!takesValue && !ON.test(value)) throw new Error(`${envVar} must be 1 or 0`);
  }
}

/** Where the database is; shared by every command that needs one. */
export const DATABASE_OPTIONS = [
  new Option(
    '--database-url <url>',
    'PostgreSQL 15 or newer to use; without it, an embedded PostgreSQL 18 in the data directory',
  ).env('DATABASE_URL'),
  new Option(
    '--listen-url <url>',
    'a way to the same database that leads to PostgreSQL itself, where the database URL leads to a transaction pooler: ' +
      'for migrations and notifications',
  ).env('BATON_LISTEN_URL'),
  new Option('--data-dir <dir>', 'where the embedded PostgreSQL keeps its data')
    .env('BATON_DATA_DIR')
    .default('.baton'),
  new Option('--log-level <level>', 'how much to log on standard error')
    .env('BATON_LOG_LEVEL')
    .choices([...LOG_LEVELS])
    .default('info'),
];

export const SERVE_OPTIONS = [
  ...DATABASE_OPTIONS,
  new Option('--no-listen', 'find changes by polling once a second, without a LISTEN connection').env(
    'BATON_NO_LISTEN',
  ),
  new Option('--log-retention <duration>', 'how long the history of changes is kept at least; 0 for ever')
    .env('BATON_LOG_RETENTION')
    .argParser(parseDuration)
    .default(parseDuration('7d'), '7d'),
  new Option('--run-retention <duration>', 'how long finished runs are kept at least; 0 for ever')
    .env('BATON_RUN_RETENTION')
    .argParser(parseDuration)
    .default(parseDuration('30d'), '30d'),
  new Option(
    '--stream-age <duration>',
    'a watch is ended after a random time between half of this and this, with a last token; 0 for never',
  )
    .env('BATON_STREAM_AGE')
    .argParser(parseDuration)
    .default(LIMITS.streamAgeMaxMs, '60m'),
  new Option('--grpc-listen <host:port>', 'where gRPC is served')
    .env('BATON_GRPC_LISTEN')
    .argParser(parseAddress)
    .default(parseAddress('127.0.0.1:50051'), '127.0.0.1:50051'),
  new Option('--http-listen <host:port>', 'where Connect, gRPC-Web, gRPC and /healthz, /readyz are served')
    .env('BATON_HTTP_LISTEN')
    .argParser(parseAddress)
    .default(parseAddress('127.0.0.1:8080'), '127.0.0.1:8080'),
  new Option(
    '--http-hosts <names>',
    'names under which the HTTP port is asked, beside localhost, addresses and the name it listens on; others are refused',
  )
    .env('BATON_HTTP_HOSTS')
    .argParser(parseHosts)
    .default([], 'none'),
  new Option(
    '--http-origins <origins>',
    'origins of other web pages that may use the HTTP port from a browser',
  )
    .env('BATON_HTTP_ORIGINS')
    .argParser(parseOrigins)
    .default([], 'none'),
  new Option('--pool-connections <n>', 'connections to the database, beside the one for LISTEN')
    .env('BATON_POOL_CONNECTIONS')
    .argParser(parseConnections)
    .default(LIMITS.poolConnections),
  new Option(
    '--insecure-public-listen',
    'allow addresses beyond loopback although there is neither TLS nor authentication',
  )
    .env('BATON_INSECURE_PUBLIC_LISTEN')
    .default(false),
];

/** What commander made of the options above. */
export interface ServeFlags {
  databaseUrl?: string;
  listenUrl?: string;
  listen: boolean;
  logRetention: number;
  runRetention: number;
  streamAge: number;
  grpcListen: Address;
  httpListen: Address;
  httpHosts: string[];
  httpOrigins: string[];
  dataDir: string;
  poolConnections: number;
  logLevel: LogLevel;
  insecurePublicListen: boolean;
}

const LOOPBACK = /^(127\.\d+\.\d+\.\d+|::1|localhost)$/;

/** @throws Error when the settings contradict each other or would not be safe */
export function toServeConfig(flags: ServeFlags): ServeConfig {
  checkUrls(flags);
  const insecure = flags.insecurePublicListen;
  for (const [name, address] of [
    ['--grpc-listen', flags.grpcListen],
    ['--http-listen', flags.httpListen],
  ] as const) {
    if (LOOPBACK.test(address.host) || insecure) continue;
    throw new Error(
      `${name} ${formatAddress(address)} is reachable from other machines, and this server has neither TLS nor ` +
        'authentication: anybody could change runs. Put it behind a proxy that has, or allow it by name with --insecure-public-listen.',
    );
  }
  return {
    databaseUrl: flags.databaseUrl,
    listenUrl: flags.listenUrl,
    listen: flags.listen,
    logRetentionMs: flags.logRetention,
    runRetentionMs: flags.runRetention,
    streamAgeMs: flags.streamAge === 0 ? undefined : { min: flags.streamAge / 2, max: flags.streamAge },
    grpcListen: flags.grpcListen,
    httpListen: flags.httpListen,
    // Under the name that it listens on it is asked, too: that is the URL it prints.
    httpHosts: [...flags.httpHosts, flags.httpListen.host.toLowerCase()],
    httpOrigins: flags.httpOrigins,
    dataDir: flags.dataDir,
    poolConnections: flags.poolConnections,
    logLevel: flags.logLevel,
    insecurePublicListen: insecure,
  };
}
