/** Connections whose client is gone do not hold up the stop of the HTTP listener. */
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import type { ServerHttp2Session } from 'node:http2';
import { Socket } from 'node:net';
import { test } from 'node:test';
import { Connections } from '../../src/rpc/connections.js';
import { within } from '../support/wait.js';

/** A session that a GOAWAY has closed: to close it once more does nothing. */
class ClosedSession extends EventEmitter {
  readonly closed = true;
  destroyed = false;

  close(): void {}

  destroy(): void {
    this.destroyed = true;
  }
}

function strand(connections: Connections): ClosedSession {
  const [socket, session] = [new Socket(), new ClosedSession()];
  connections.add(socket);
  connections.setSession(socket, session as unknown as ServerHttp2Session);
  return session;
}

void test('a closed session without a connection does not hold up a stop', async () => {
  const connections = new Connections(() => undefined);
  const session = strand(connections);
  await within(connections.drain(), 'the drain');
  assert.ok(session.destroyed);
});

void test('a closed session without a connection is gone with the next ping', async () => {
  const connections = new Connections(() => undefined);
  const session = strand(connections);
  connections.ping();
  assert.ok(session.destroyed);
  await within(connections.drain(), 'the drain');
});
