import { connect, type Socket } from 'node:net';
import { create, toBinary } from '@bufbuild/protobuf';
import { WatchRunsRequestSchema } from '../../gen/baton/v1/job_service_pb.js';
import type { TestDatabase } from './database.js';
import { waitFor } from './wait.js';

/** A watch of everything over HTTP/1.1 whose answer nobody reads. */
export async function blockedWatch(httpUrl: string): Promise<Socket> {
  const { hostname, port } = new URL(httpUrl);
  const socket = connect(Number(port), hostname);
  socket.on('error', () => undefined);
  await new Promise<void>((resolve) => socket.once('connect', resolve));
  const message = toBinary(
    WatchRunsRequestSchema,
    create(WatchRunsRequestSchema, { after: 'oldest', includePayload: true }),
  );
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  const body = Buffer.concat([head, message]);
  socket.write(
    `POST /baton.v1.JobService/WatchRuns HTTP/1.1\r\nHost: ${hostname}\r\n` +
      `Content-Type: application/connect+proto\r\nContent-Length: ${body.length}\r\n\r\n`,
  );
  socket.write(body);
  socket.pause();
  return socket;
}

/** Waits until the stream is open and reads no more of the log: its writer is blocked. */
export async function untilBlocked(database: TestDatabase, isOpen: () => boolean): Promise<void> {
  await waitFor(isOpen, 'the stream to open');
  let seen = false;
  let quiet = 0;
  await waitFor(
    async () => {
      // A session shows its last statement only, so a read may be hidden behind another statement of its session.
      const [row] = await database.pool.query<{ reading: boolean | null }>(
        `select max(query_start) > clock_timestamp() - interval '100 milliseconds' as reading from pg_stat_activity
         where application_name = 'baton watch' and query like '%page.read_bytes%' and datname = current_database()`,
      );
      seen ||= row?.reading != null;
      quiet = row?.reading === true ? 0 : quiet + 1;
      return seen && quiet > 50;
    },
    'the writer to be blocked',
    30_000,
  );
}
