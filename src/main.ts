#!/usr/bin/env node
import { createProgram, fail } from './cli/program.js';

try {
  await createProgram().parseAsync();
} catch (error) {
  fail(error);
}
