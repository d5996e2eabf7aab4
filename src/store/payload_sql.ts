import { LIMITS } from '../base/limits.js';

/** What PostgreSQL has compressed is taken for so many times as large, where nobody looks: JSON often shrinks to a third. */
const PACKING = 4;
/** No less of what is compressed can be more than an answer holds; it shrinks to a hundredth at best. */
const PACKED_BYTES = LIMITS.answerBytes / 100;
/** Claims with less than this are given with their payload at once; it is read by a statement of its own otherwise. */
const AT_ONCE_BYTES = 4096;
/** A payload with less as it is stored needs no turn to be read. */
const LIGHT_BYTES = 65_536;

/** What else there is of a run in an answer. */
const RUN_BYTES = 512;

const size = (column: string): string => `coalesce(pg_column_size(${column})::bigint, 0)`;
const packed = (column: string): string =>
  `case when pg_column_compression(${column}) is null then 0 else ${size(column)} end`;
const text = (column: string): string => `coalesce(octet_length(${column}::text)::bigint, 0)`;

/** Three columns with a payload. */
export interface PayloadColumns {
  readonly input: string;
  readonly output: string;
  readonly checkpoint: string;
}

export function payloadOf(alias: string): PayloadColumns {
  return { input: `${alias}.input`, output: `${alias}.output`, checkpoint: `${alias}.checkpoint` };
}

const sum = (of: (column: string) => string, columns: PayloadColumns): string =>
  `(${of(columns.input)} + ${of(columns.output)} + ${of(columns.checkpoint)})`;

/**
 * About how large a payload is, by what its row says of it: nothing is fetched or unpacked. This preselects what an answer
 * may hold; what is read then is measured.
 */
export function storedBytes(columns: PayloadColumns): string {
  return `(${sum(size, columns)} + ${PACKING - 1} * ${sum(packed, columns)})`;
}

/** Whether a payload is read in no time: it is small, or little of it is compressed. */
export function isLight(columns: PayloadColumns): string {
  return `${sum(size, columns)} <= ${LIGHT_BYTES} and ${sum(packed, columns)} <= ${LIGHT_BYTES / 16}`;
}

/** Of a run (alias r) that is locked to be claimed: what it takes as it is stored, and what of its payload is compressed. */
export const LOCKED_BYTES = `${sum(size, payloadOf('r'))} + ${size('r.labels')} + ${RUN_BYTES} as stored, ${sum(packed, payloadOf('r'))} as packed`;

/**
 * How many times as large the compressed part of the locked runs (`locked`) is: as that of the first of them, which is
 * unpacked to see. Runs of one stage are much alike, and a wrong guess costs a claim that has to be released.
 *
 * @param order of the claims, with the alias l
 */
export function packingSql(order: string): string {
  return `packing as materialized (
  select coalesce(
    (
      select greatest(p.read_bytes + ${RUN_BYTES} - l.stored + l.packed, l.packed) / l.packed::float8
      from (select l.* from locked l where l.packed > 0 order by ${order} limit 1) l
      cross join lateral (
        select ${readBytes(payloadOf('r'))} as read_bytes from baton.runs r where r.id = l.id offset 0
      ) p
      where (select sum(l.packed) from locked l) > ${PACKED_BYTES}
    ),
    ${PACKING}
  ) as times
)`;
}

/** The bytes that reading a payload brings to the server, as text. To count them it is unpacked in the database. */
export function readBytes(columns: PayloadColumns): string {
  return sum(text, columns);
}

/** A select list of the payload where a condition holds, and whether it does not. */
export function payloadWhere(condition: string, columns: PayloadColumns): string {
  const column = (name: keyof PayloadColumns): string =>
    `case when ${condition} then ${columns[name]} end as ${name}`;
  return `${column('input')}, ${column('output')}, ${column('checkpoint')}, not (${condition}) as payload_omitted`;
}

/**
 * Cuts a page short by what its payloads take: of the rows of `page`, in order of `key`, those before which there are less
 * than `limit` bytes, as they are stored and then as they are read. So there is at least one, and at most one too many.
 *
 * @param page a query with the columns of a payload
 * @returns what to select from, under the alias `page` and with `read_bytes` and how many `page_rows` there are, and a
 *   condition
 */
export function cutByBytes(page: string, key: string, limit: string): string {
  const columns = payloadOf('p');
  return `(
  select p.*, sum(p.read_bytes) over (order by p.${key}) - p.read_bytes as read_before
  from (
    select p.*, t.read_bytes
    from (
      select p.*, count(*) over () as page_rows, sum(${storedBytes(columns)}) over (order by p.${key}) - ${storedBytes(columns)} as stored_before
      from (${page}) p
    ) p
    -- Once for each row, and for none that was cut off before.
    cross join lateral (select ${readBytes(columns)} as read_bytes offset 0) t
    where p.stored_before < ${limit}
  ) p
) page
where page.read_before < ${limit}`;
}

/** The payload of a page that was cut; one that could not be answered anyway stays in the database. */
export const PAGE_PAYLOAD = payloadWhere(`page.read_bytes <= ${2 * LIMITS.answerBytes}`, payloadOf('page'));

/** The same for a claim (alias `picked` has its stored `bytes`). */
export const CLAIMED_PAYLOAD = payloadWhere(`picked.bytes <= ${AT_ONCE_BYTES + RUN_BYTES}`, payloadOf('r'));

/**
 * Whether the runs of an answer (alias `picked`) are to be claimed: its slot is not full, nor all that one statement may
 * take. Each slot may have one run, however large.
 */
export const FITS = `
  (picked.nth = 1 or sum(picked.bytes) over (partition by picked.waiter order by picked.place) <= ${LIMITS.answerBytes})
  and (picked.place = 1 or sum(picked.bytes) over (order by picked.waiter, picked.place) <= ${LIMITS.claimBytes})`;
