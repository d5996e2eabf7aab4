/** A lease as the database knows it: the number only grows, the id is random. Both have to fit. */
export interface LeaseKey {
  readonly number: bigint;
  readonly id: string;
}

const TOKEN = /^[A-Za-z0-9_-]{32}$/;

/** The opaque token that a worker gets: 8 bytes of lease number and 16 of lease id, in base64url. */
export function encodeLeaseToken(key: LeaseKey): string {
  const bytes = Buffer.alloc(24);
  bytes.writeBigInt64BE(key.number, 0);
  bytes.write(key.id.replaceAll('-', ''), 8, 'hex');
  return bytes.toString('base64url');
}

/** The key in a token, or undefined for a text that this service never gave to anybody. */
export function decodeLeaseToken(token: string): LeaseKey | undefined {
  if (!TOKEN.test(token)) return undefined;
  const bytes = Buffer.from(token, 'base64url');
  const hex = bytes.toString('hex', 8);
  const id = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join(
    '-',
  );
  return { number: bytes.readBigInt64BE(0), id };
}
