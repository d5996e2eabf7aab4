/** A server with its own durable PostgreSQL. Says where it is, then answers every message with what it has used. */
import { createLogger } from '../../src/base/log.js';
import { startServer } from '../../src/server.js';
import { childArgs, send } from './ipc.js';

export interface ServerArgs {
  readonly dataDir: string;
  readonly listen: boolean;
}

export interface ServerPlace {
  readonly grpcPort: number;
  readonly databaseUrl: string;
}

export interface ServerUse {
  readonly cpuMicros: number;
  readonly rssBytes: number;
  readonly heapBytes: number;
  readonly streams: number;
  /** What the hub holds for all streams. */
  readonly heldBytes: number;
}

const { dataDir, listen } = childArgs() as ServerArgs;
const anyPort = { host: '127.0.0.1', port: 0 };
const server = await startServer(
  {
    databaseUrl: undefined,
    listenUrl: undefined,
    listen,
    logRetentionMs: 0,
    runRetentionMs: 0,
    streamAgeMs: undefined,
    grpcListen: anyPort,
    httpListen: anyPort,
    dataDir,
    poolConnections: 10,
    logLevel: 'error',
    insecurePublicListen: false,
  },
  createLogger('error'),
  new AbortController().signal,
);

process.on('message', () => {
  const { user, system } = process.cpuUsage();
  const { rss, heapUsed } = process.memoryUsage();
  const { streamCount, heldBytes } = server.service.hub;
  const use: ServerUse = {
    ...{ cpuMicros: user + system, rssBytes: rss, heapBytes: heapUsed, streams: streamCount, heldBytes },
  };
  send(use);
});
const stop = async (): Promise<void> => {
  await server.stop();
  process.exit(0);
};
process.once('SIGTERM', () => void stop());
process.once('disconnect', () => void stop());
const place: ServerPlace = { grpcPort: server.grpc.port, databaseUrl: server.databaseUrl };
send(place);
