/** A Baton server in a process of its own, on a database that is there. Answers every question with what it has used. */
import { createLogger } from '../../src/base/log.js';
import { startServer } from '../../src/server.js';
import { childArgs, serve } from '../support/ipc.js';
import type { BatonPlace, ServerArgs, ServerUse, UseQuestion } from '../support/system.js';

const { databaseUrl, listen } = childArgs() as ServerArgs;
const anyPort = { host: '127.0.0.1', port: 0 };
const server = await startServer(
  {
    databaseUrl,
    listenUrl: undefined,
    listen,
    logRetentionMs: 0,
    runRetentionMs: 0,
    streamAgeMs: undefined,
    grpcListen: anyPort,
    httpListen: anyPort,
    httpHosts: [],
    httpOrigins: [],
    dataDir: '',
    poolConnections: 10,
    logLevel: 'error',
    insecurePublicListen: false,
  },
  createLogger('error'),
  new AbortController().signal,
);

function use(question: unknown): ServerUse {
  if ((question as UseQuestion).collect === true) globalThis.gc?.();
  const { user, system } = process.cpuUsage();
  return { cpuMicros: user + system, rssBytes: process.memoryUsage().rss };
}

const place: BatonPlace = { grpcPort: server.grpc.port, httpPort: server.http.port, pid: process.pid };
serve(place, use, () => server.stop());
