import type { Logger } from '../base/log.js';
import { formatAddress, type ServeConfig } from '../config.js';
import { startServer, type RunningServer } from '../server.js';

const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

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
  const starting = new AbortController();
  let onSignal: (() => void) | undefined;
  const signaled = new Promise<undefined>((resolve) => {
    onSignal = () => {
      starting.abort(new Error('stopped while starting'));
      resolve(undefined);
    };
    for (const signal of STOP_SIGNALS) process.on(signal, onSignal);
  });
  try {
    const server = await startServer(config, log, starting.signal);
    process.stdout.write(readyText(server, startedAt));
    const failure = await Promise.race([signaled, server.failed]);
    if (failure !== undefined) log.error({ err: failure }, 'stopping');
    else log.info('stopping');
    await server.stop();
    return failure === undefined ? 0 : 1;
  } catch (error) {
    if (starting.signal.aborted) return 0;
    throw error;
  } finally {
    if (onSignal !== undefined) for (const signal of STOP_SIGNALS) process.off(signal, onSignal);
  }
}
