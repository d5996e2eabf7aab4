import type { Pool } from '../../src/store/pool.js';

/**
 * Everything in the schema as the catalogs tell it, in words that all supported versions share. NOT NULL is in the
 * columns: PostgreSQL 18 lists it among the constraints too, 15 does not.
 */
const CATALOG = `
select 'column' as kind, c.relname::text as owner, a.attname::text as name,
  format_type(a.atttypid, a.atttypmod) || case when a.attnotnull then ' not null' else '' end
    || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '') as definition
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = 'baton'::regnamespace and c.relkind in ('r', 'p')
union all
select 'constraint', r.conrelid::regclass::text, r.conname, pg_get_constraintdef(r.oid)
from pg_constraint r
where r.connamespace = 'baton'::regnamespace and r.contype <> 'n'
union all
select 'index', i.indrelid::regclass::text, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
from pg_index i join pg_class c on c.oid = i.indexrelid
where c.relnamespace = 'baton'::regnamespace
union all
select 'trigger', t.tgrelid::regclass::text, t.tgname, pg_get_triggerdef(t.oid)
from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = 'baton'::regnamespace and not t.tgisinternal
union all
select 'function', '', p.oid::regprocedure::text, pg_get_functiondef(p.oid)
from pg_proc p where p.pronamespace = 'baton'::regnamespace
union all
select 'partition', c.relname, '', pg_get_expr(c.relpartbound, c.oid)
from pg_class c where c.relnamespace = 'baton'::regnamespace and c.relispartition
union all
select 'sequence', '', s.sequencename, concat_ws(' ', s.data_type, s.start_value, s.increment_by, s.cycle, s.cache_size)
from pg_sequences s where s.schemaname = 'baton'
union all
select 'enum', '', e.enumtypid::regtype::text, string_agg(e.enumlabel, ' ' order by e.enumsortorder)
from pg_enum e join pg_type y on y.oid = e.enumtypid
where y.typnamespace = 'baton'::regnamespace group by e.enumtypid
order by 1, 2, 3, 4`;

export interface CatalogEntry {
  readonly kind: string;
  readonly owner: string;
  readonly name: string;
  readonly definition: string;
}

export function readCatalog(pool: Pool): Promise<CatalogEntry[]> {
  return pool.transaction(async (tx) => {
    // Names are printed without their schema where the path leads to it, which depends on the name of the user.
    await tx.query('set local search_path to pg_catalog');
    return tx.query<CatalogEntry & Record<string, string>>(CATALOG);
  });
}
