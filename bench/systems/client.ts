/** The clients of one system in a process of their own, or all of a system that is a library. */
import { childArgs, serve } from '../support/ipc.js';
import type { ClientArgs, ClientQuestion, Open } from '../support/system.js';

const { client, place } = childArgs() as ClientArgs;
const { open } = (await import(`./${client}.js`)) as { open: Open };
const { operations, close } = await open(place);

serve(
  {},
  (question) => {
    const { operation, params } = question as ClientQuestion;
    const work = operations[operation];
    if (work === undefined) throw new Error(`${client} has no operation ${operation}`);
    return work(params);
  },
  close,
);
