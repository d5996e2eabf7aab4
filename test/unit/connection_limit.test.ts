import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connectionLimit } from '../../src/rpc/connection_limit.js';
import { RPC_LIMITS } from '../../src/rpc/limits.js';

const limits = (files: string): string =>
  `Limit                     Soft Limit           Hard Limit           Units\nMax open files            ${files}                524288               files\n`;

test('two listeners never take all files of the process', () => {
  assert.equal(connectionLimit(limits('1048576')), RPC_LIMITS.connections);
  for (const files of [1024, 4096, 20_000])
    assert.ok(2 * connectionLimit(limits(String(files))) <= files - 100, `${files}`);
  assert.equal(connectionLimit(limits('1024')), 412);
  assert.equal(connectionLimit(limits('64')), 1);
  for (const unknown of ['', limits('unlimited')])
    assert.equal(connectionLimit(unknown), RPC_LIMITS.connections);
  const own = connectionLimit();
  assert.ok(own > 0 && own <= RPC_LIMITS.connections);
});
