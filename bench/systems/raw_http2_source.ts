import type { Change, OpenSource } from '../support/delivery.js';
import { Child } from '../support/ipc.js';
import type { ServerPlace, ServerUse, UseQuestion } from '../support/system.js';
import type { RawQuestion } from './raw_http2_server.js';

/** Shared bytes over node:http2. It makes its own changes. */
export const rawHttp2Source: OpenSource = async ({ serverArgv }) => {
  const server = new Child('systems/raw_http2_server.js', {}, ['--expose-gc', ...serverArgv]);
  const { grpcPort: port } = await server.ask<ServerPlace>();
  const publish = (question: RawQuestion): Promise<Change> => server.ask<Change>(question);
  return {
    protocol: 'baton',
    port,
    steady: (rate, seconds, shape) => publish({ changes: Math.ceil(rate * seconds), rate, ...shape }),
    burst: (changes, shape) => publish({ changes, rate: 0, ...shape }),
    use: (collect) => server.ask<ServerUse>({ collect } satisfies UseQuestion),
    stop: () => server.end(),
  };
};
