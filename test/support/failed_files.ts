import type { TestEvent } from 'node:test/reporters';

/** A reporter of the test runner: the file of each failure, one a line. */
export default async function* failedFiles(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const event of events) {
    if (event.type === 'test:fail') yield `${event.data.file ?? event.data.name}\n`;
  }
}
