import type { OpenSource } from '../support/delivery.js';
import { Child } from '../support/ipc.js';
import type { ServerArgs, ServerPlace, ServerUse, UseQuestion } from '../support/system.js';
import { Writer } from '../support/writer.js';

/** Baton, whose runs are inserted by SQL: the writer costs little, and the server has nothing to do but to stream. */
export function batonSource(listen = true): OpenSource {
  return async ({ cluster, serverArgv }) => {
    const databaseUrl = await cluster.createDatabase();
    const args: ServerArgs = { databaseUrl, listen };
    const server = new Child('systems/baton_server.js', args, ['--expose-gc', ...serverArgv]);
    const { grpcPort: port } = await server.ask<ServerPlace>();
    const writer = await Writer.connect(databaseUrl);
    return {
      protocol: 'baton',
      port,
      steady: (rate, seconds) => writer.write(rate, seconds),
      burst: (changes) => writer.burst(changes),
      use: (collect) => server.ask<ServerUse>({ collect } satisfies UseQuestion),
      async stop() {
        await writer.close();
        await server.end();
        await cluster.dropDatabase(databaseUrl);
      },
    };
  };
}
