import type { Logger } from '../base/log.js';
import { formatAddress, type ServeConfig } from '../config.js';
import { startServer, type RunningServer } from '../server.js';
import { StopSignals } from './signals.js';

function readyText(server: RunningServer, startedAt: number): string {
  const http = formatAddress(server.http);
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  return [
    `Baton is ready after ${seconds} s: gRPC on ${formatAddress(server.grpc)}, Connect and HTTP on ${http}`,
    'Create a run:',
    `  curl http://${http}/baton.v1.JobService/CreateRun -H 'Content-Type: application/json' -d '{"repository": "hello"}'`,
    '',
  ].join('\n');
}

/**
 * Runs the server until a signal or a failure ends it.
 *
 * @returns the exit code: 0 after a signal, 1 after a failure
 */
export async function serve(config: ServeConfig, log: Logger): Promise<number> {
  // performance.now() counts from the start of the process, so the ready line tells what a user has waited.
  const startedAt = 0;
  const stop = new StopSignals();
  try {
    const server = await startServer(config, log, stop.signal);
    process.stdout.write(readyText(server, startedAt));
    const failure = await Promise.race([stop.received, server.failed]);
    if (failure !== undefined) log.error({ err: failure }, 'stopping');
    else log.info('stopping');
    await server.stop();
    return failure === undefined ? 0 : 1;
  } catch (error) {
    // A start that was broken off by a signal.
    if (!stop.signal.aborted) throw error;
    stop.endSoon();
    return 0;
  } finally {
    stop.release();
  }
}
