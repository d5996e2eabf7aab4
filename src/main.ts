#!/usr/bin/env node
import { createProgram, fail } from './cli/program.js';

/** What is printed gets this long to be read. */
const OUTPUT_MS = 1000;

try {
  await createProgram().parseAsync();
} catch (error) {
  fail(error);
}
// Output that nobody reads would keep a process alive that is done.
setTimeout(() => {
  if (process.stdout.writableLength + process.stderr.writableLength > 0) process.exit();
}, OUTPUT_MS).unref();
