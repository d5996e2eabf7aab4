-- Up Migration

-- Under what identity the epoch was made. The epoch is a row like any other and comes along with a dump, a copy and a
-- base backup; these tell that it did. All null until the first server that knows of them has looked.
alter table baton.log
  -- Of the cluster, as initdb drew it: a base backup keeps it, another cluster has another one. Null where the role
  -- may not ask.
  add column system_identifier bigint,
  -- CREATE DATABASE ... TEMPLATE copies tables with their oids; a dump makes new ones.
  add column database_oid oid,
  add column log_oid oid,
  -- Of the write-ahead log: a promoted standby and a recovery to a point in time begin a new one. Null where the
  -- database cannot say.
  add column timeline bigint;

-- Revisions strictly between the two were lost when a new timeline began behind them, or were never given out. Whoever
-- has a token of one has seen changes that are not there.
create table baton.log_holes (
  after_revision bigint not null,
  through_revision bigint not null,
  timeline bigint not null,
  create_time timestamptz not null default pg_catalog.clock_timestamp(),
  constraint log_holes_pkey primary key (after_revision),
  constraint log_holes_are_wide check (through_revision > after_revision)
);

-- Makes sure that the epoch belongs to the database that it is in, and says what was done:
--
--   'same'      nothing
--   'adopted'   what was not known of the identity was written down
--   'epoch'     another database: a new epoch, so that every token from before is refused
--   'timeline'  the same one on a new timeline: what its standby had not received is lost. Revisions go on far ahead,
--               so that none is given out again that a watcher has seen, and what is between is a hole
--   'standby'   nothing can be written here
--
-- Any number of servers may call it at once: whoever has the lock of the log first acts, and the others find it done.
-- The lock also keeps every writer from drawing a revision in the meantime. 60 microseconds where nothing is to do.
create function baton.identify_log(out outcome text, out system_is_known boolean)
  language plpgsql set search_path = pg_catalog, pg_temp
  as $$
declare
  known baton.log;
  here_system bigint;
  here_timeline bigint;
  here_database constant oid := (select d.oid from pg_database d where d.datname = current_database());
  here_log constant oid := 'baton.log'::regclass;
  head bigint;
  target bigint;
begin
  begin
    here_system := (pg_control_system()).system_identifier;
  exception when insufficient_privilege or undefined_function or feature_not_supported then
    null;
  end;
  system_is_known := here_system is not null;
  if pg_is_in_recovery() then
    outcome := 'standby';
    return;
  end if;
  begin
    -- From the place that is written to: the control file shows a new timeline only after its first checkpoint.
    here_timeline := ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint;
  exception when insufficient_privilege or undefined_function or feature_not_supported then
    null;
  end;

  for attempt in 1..2 loop
    select l.* into strict known from baton.log l;
    -- What one side does not know tells nothing.
    outcome := case
      when known.system_identifier <> here_system or known.database_oid <> here_database or known.log_oid <> here_log
        then 'epoch'
      when known.timeline <> here_timeline then 'timeline'
      when known.database_oid is null
        or (known.system_identifier is null and here_system is not null)
        or (known.timeline is null and here_timeline is not null)
        then 'adopted'
      else 'same'
    end;
    if outcome = 'same' then
      return;
    end if;
    if attempt = 1 then
      perform pg_advisory_xact_lock(4773551914087416173);
    end if;
  end loop;

  if outcome = 'timeline' then
    head := coalesce((select max(e.revision) from baton.run_events e), known.oldest_revision - 1);
    select greatest(s.last_value, head) + 4294967296 into target from baton.revision s;
    insert into baton.log_holes (after_revision, through_revision, timeline) values (head, target, here_timeline)
      -- Promoted again before anything was written.
      on conflict (after_revision) do update
        set through_revision = excluded.through_revision, timeline = excluded.timeline;
    perform setval('baton.revision', target);
  elsif outcome = 'epoch' then
    delete from baton.log_holes;
  end if;
  update baton.log set
    epoch = case when outcome = 'epoch' then gen_random_uuid() else epoch end,
    system_identifier = case when outcome = 'epoch' then here_system else coalesce(here_system, system_identifier) end,
    database_oid = here_database,
    log_oid = here_log,
    timeline = case when outcome = 'epoch' then here_timeline else coalesce(here_timeline, timeline) end;
end
$$;

-- Down Migration

drop function baton.identify_log;
drop table baton.log_holes;
alter table baton.log drop column system_identifier, drop column database_oid, drop column log_oid, drop column timeline;
