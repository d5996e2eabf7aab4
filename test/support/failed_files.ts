import type { TestEvent } from 'node:test/reporters';

/** A reporter of the test runner: the file of each failure, one a line. */
export default async function* failedFiles(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const event of events) {
    if (event.type !== 'test:fail') continue;
    const file = event.data.file ?? event.data.name;
    // A suite may be opened by a helper; what has failed in it is told by its file too.
    if (/\.test\.[jt]s$/.test(file)) yield `${file}\n`;
  }
}
