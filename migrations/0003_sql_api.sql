-- Up Migration

-- For how long the run could have been claimed before this claim: set for CLAIMED, and null in events from before this
-- migration. The run's own claimable_time is overwritten by what follows the claim, and earlier events do not tell it
-- after a schedule or a delay was changed, so it is taken down when the claim is made.
alter table baton.run_events add column waited interval;

-- As in 0001, and with the wait.
create or replace function baton.runs_append_event() returns trigger
  language plpgsql
  as $$
declare
  inserted constant boolean := tg_op = 'INSERT';
  kind baton.event_type;
begin
  if inserted then
    kind := 'CREATED';
  elsif new.status = old.status and new.stage = old.stage then
    kind := case when new.cancel_requested and not old.cancel_requested then 'CANCEL_REQUESTED' else 'UPDATED' end;
  elsif new.state not in ('PENDING', 'ACTIVE') then
    kind := new.state::text::baton.event_type;
  elsif new.state = 'ACTIVE' then
    kind := case when old.state = 'PENDING' then 'CLAIMED' else 'UPDATED' end;
  elsif old.state = 'ACTIVE' then
    kind := case
      when new.stage <> old.stage then 'STAGE_COMPLETED'
      when new.attempt < old.attempt then 'RELEASED'
      when new.error_code in ('LEASE_EXPIRED', 'ATTEMPT_TIMED_OUT') then 'LEASE_EXPIRED'
      else 'RETRY_SCHEDULED'
    end;
  elsif old.state = 'PENDING' then
    kind := 'UPDATED';
  else
    kind := 'RETRIED';
  end if;

  -- From here to the commit: 0001 says why.
  perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);
  insert into baton.run_events (
    revision, type, previous_status, previous_stage, previous_state,
    run_id, pipeline, stage, status, state, repository, labels, output, error_code, error_message, priority,
    concurrency_key, attempt, attempts_allowed, worker_id, lease_id, lease_expire_time, schedule_time,
    cancel_requested, progress, status_message, checkpoint, version, create_time, update_time, start_time, end_time,
    request_id, trace_parent, waited
  ) values (
    pg_catalog.nextval('baton.revision'), kind,
    case when inserted then '' else old.status end,
    case when inserted then '' else old.stage end,
    case when inserted then null else old.state end,
    new.id, new.pipeline, new.stage, new.status, new.state, new.repository, new.labels, new.output, new.error_code,
    new.error_message, new.priority, new.concurrency_key, new.attempt, new.attempts_allowed, new.worker_id,
    case when new.lease_id is null and not inserted then old.lease_id else new.lease_id end,
    new.lease_expire_time, new.schedule_time, new.cancel_requested, new.progress, new.status_message, new.checkpoint,
    new.version, new.create_time, new.update_time, new.start_time, new.end_time, new.request_id, new.trace_parent,
    -- Plain SQL may take a run before its time.
    case when kind = 'CLAIMED' then greatest(new.update_time - old.claimable_time, interval '0') end
  );
  -- A doorbell without contents: listeners read the log. Many in one transaction are delivered as one.
  perform pg_catalog.pg_notify('baton_log', '');
  return null;
end
$$;

------------------------------------------------------------------------------------- what SQL is told of a run

-- Since when a run is in its status; its update_time also moves with its progress. Null in runs from before this
-- migration until their next status: run_overview has what else is known of those.
alter table baton.runs add column status_time timestamptz;
-- The same moment as create_time, so that the trigger is spared at an INSERT that leaves it alone.
alter table baton.runs alter column status_time set default pg_catalog.statement_timestamp();

create function baton.runs_keep_status_time() returns trigger
  language plpgsql
  as $$
begin
  new.status_time := case
    when tg_op = 'INSERT' then new.create_time
    when new.status is distinct from old.status then new.update_time
    else old.status_time
  end;
  return new;
end
$$;

-- Triggers fire in the order of their names: runs_before_* has taken the time when these look at it.
create trigger runs_status_time_on_insert before insert on baton.runs
  for each row when (new.status_time is distinct from new.create_time) execute function baton.runs_keep_status_time();

create trigger runs_status_time_on_update before update on baton.runs
  for each row when (new.status is distinct from old.status or new.status_time is distinct from old.status_time)
  execute function baton.runs_keep_status_time();

---------------------------------------------------------------------------------------- one request, two languages

-- What can change later of what was asked for under request_id, as it was asked for; the rest never changes and is
-- compared where it is. Together they tell a repeat from a second use of the same id for SQL and for the API, which
-- have no common text of a request that they could hash. Null without request_id and in runs from before.
alter table baton.runs add column requested jsonb;

create function baton.request_terms(
  priority integer, schedule_time timestamptz, concurrency_key text, max_attempts integer
) returns jsonb
  language sql stable parallel safe
  as $$
    select pg_catalog.jsonb_build_object(
      'priority', priority,
      -- A number, because the text of a time depends on the session.
      'schedule_time', extract(epoch from schedule_time),
      'concurrency_key', concurrency_key,
      'max_attempts', nullif(max_attempts, 0))
  $$;

create function baton.runs_keep_request() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  new.requested := baton.request_terms(new.priority, new.schedule_time, new.concurrency_key, new.max_attempts);
  return new;
end
$$;

create trigger runs_keep_request before insert on baton.runs
  for each row when (new.request_id is not null) execute function baton.runs_keep_request();

-- Whether a run was asked for in these words. Of a run from before this migration, what may have changed is compared
-- with what it is now.
create function baton.is_request_of(
  run baton.runs, pipeline text, repository text, labels jsonb, input jsonb, priority integer,
  schedule_time timestamptz, concurrency_key text, max_attempts integer
) returns boolean
  language sql stable parallel safe
  as $$
    select run.pipeline = pipeline and run.repository = repository and run.labels = labels
      and run.input is not distinct from input
      and coalesce(
          run.requested,
          baton.request_terms(run.priority, run.schedule_time, run.concurrency_key, run.max_attempts)
        ) = baton.request_terms(priority, schedule_time, concurrency_key, max_attempts)
  $$;

-------------------------------------------------------------------------------------------------------- create_run

-- Characters as the API counts them: UTF-16 code units.
create function baton.utf16_length(value text) returns integer
  language sql immutable strict parallel safe
  as $$
    select pg_catalog.length(value)
      + pg_catalog.length(pg_catalog.regexp_replace(value, '[\U00000001-\U0000FFFF]', '', 'g'))
  $$;

-- Bytes of a value as JSON text without white space, as the API counts them: jsonb prints a blank after each comma and
-- colon between its parts.
create function baton.json_text_bytes(value jsonb) returns bigint
  language sql immutable strict parallel safe
  as $$
    select pg_catalog.octet_length(value::text) - coalesce(sum(case pg_catalog.jsonb_typeof(part)
        when 'object' then greatest(2 * (select count(*) from pg_catalog.jsonb_object_keys(part)) - 1, 0)
        when 'array' then greatest(pg_catalog.jsonb_array_length(part) - 1, 0)
        else 0
      end), 0)::bigint
    from pg_catalog.jsonb_path_query(value, 'strict $.**') as part
  $$;

-- What is wrong with the input of a run, or null. The cheap tests come first: only long texts can break a rule.
-- This and the next ones are not of plain SQL, which plans them at every call and takes 50 microseconds for all.
create function baton.input_violation(input jsonb) returns text
  language plpgsql immutable strict parallel safe
  as $$
declare
  bytes constant integer := pg_catalog.octet_length(input::text);
begin
  return case
    when pg_catalog.jsonb_typeof(input) <> 'object' then 'input: must be an object'
    when bytes <= 60 then null
    when pg_catalog.jsonb_path_exists(input, 'strict $.**{30}') then 'input: must be nested at most 30 deep'
    when bytes > 300 and pg_catalog.jsonb_path_exists(
        input, 'strict $.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))')
      then 'input: must have only numbers that fit a double'
    -- A blank for each comma and colon makes a text longer by less than half.
    when bytes > 1572864 or (bytes > 1048576 and baton.json_text_bytes(input) > 1048576)
      then 'input: must have at most 1048576 bytes as JSON'
  end;
end
$$;

-- What is wrong with the labels of a run, one line each.
create function baton.label_violations(labels jsonb) returns text[]
  language plpgsql immutable strict parallel safe
  as $$
begin
  if pg_catalog.jsonb_typeof(labels) <> 'object' then
    return array['labels: must be an object of texts'];
  end if;
  -- Too short for a key, a value or a number of labels that is too great.
  if pg_catalog.octet_length(labels::text) <= 64 and not labels ? '' and not labels @? '$.* ? (@.type() != "string")' then
    return '{}';
  end if;
  if (select count(*) from pg_catalog.jsonb_object_keys(labels)) > 32 then
    return array['labels: must have at most 32 labels'];
  end if;
  return array(
    select pg_catalog.format('labels[%s]: %s', pg_catalog.to_json(label.key), problem)
    from pg_catalog.jsonb_each(labels) as label
    cross join lateral (values
      (case when label.key = '' then 'the key must not be empty' end),
      (case when pg_catalog.octet_length(label.key) > 63 and baton.utf16_length(label.key) > 63
        then 'must have at most 63 characters in its key' end),
      (case when pg_catalog.jsonb_typeof(label.value) <> 'string' then 'must be a text' end),
      (case when pg_catalog.octet_length(label.value::text) > 256 and baton.utf16_length(label.value #>> '{}') > 256
        then 'must have at most 256 characters' end)
    ) as found (problem)
    where problem is not null);
end
$$;

-- Every line says which parameter breaks which rule; the rules and limits are those of CreateRun.
create function baton.run_violations(
  pipeline text, repository text, labels jsonb, input jsonb, priority integer, schedule_time timestamptz,
  concurrency_key text, max_attempts integer, request_id text, trace_parent text
) returns text[]
  language plpgsql stable parallel safe
  as $$
begin
  return pg_catalog.array_remove(array[
    case when pipeline collate "C" !~ '^[a-z0-9][a-z0-9_-]{0,62}$'
      then 'pipeline: must be 1 to 63 of a-z, 0-9, _ and -, and start with a letter or digit' end,
    case when pg_catalog.octet_length(repository) > 256 and baton.utf16_length(repository) > 256
      then 'repository: must have at most 256 characters' end,
    case when input is not null then baton.input_violation(input) end,
    case when priority not between 0 and 9 then 'priority: must be 0 to 9' end,
    case when schedule_time > pg_catalog.clock_timestamp() + interval '3650 days'
      then 'schedule_time: must be at most 3650 days ahead' end,
    case when schedule_time < '0001-01-01 00:00:00+00' then 'schedule_time: must be of the years 1 to 9999' end,
    case when pg_catalog.octet_length(concurrency_key) > 256 and baton.utf16_length(concurrency_key) > 256
      then 'concurrency_key: must have at most 256 characters' end,
    case when max_attempts not between 0 and 100 then 'max_attempts: must be 0 to 100' end,
    case when request_id <> '' and request_id collate "C" !~ '^[\x20-\x7e]{0,128}$'
      then 'request_id: must be at most 128 printable ASCII characters' end,
    case when trace_parent <> '' and trace_parent collate "C" !~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
      then 'trace_parent: must be a W3C traceparent' end
  ], null) || case when labels = '{}' then '{}' else baton.label_violations(labels) end;
end
$$;

-- Creates a run in the transaction of the caller: it is there, for workers and for watchers, when that commits. The
-- parameters are those of CreateRun, with its defaults, its limits and its meaning of request_id; null stands for the
-- default. It returns the id and not the row: that is what one keeps beside one's own rows, and it binds no caller to
-- the columns of a table that grows; run_overview has the rest.
--
-- It runs with the rights of the owner, so that who may call it needs none on the tables. One call takes 113
-- microseconds where a plain INSERT takes 102, and 140 against 111 with a request_id (before this migration: 96 and 101).
create function baton.create_run(
  pipeline text default 'ci',
  repository text default '',
  labels jsonb default '{}',
  input jsonb default null,
  priority integer default 0,
  schedule_time timestamptz default null,
  concurrency_key text default '',
  max_attempts integer default 0,
  request_id text default '',
  trace_parent text default ''
) returns uuid
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
#variable_conflict use_column
declare
  made uuid;
  same boolean;
  violations text[];
begin
  pipeline := coalesce(nullif(create_run.pipeline, ''), 'ci');
  repository := coalesce(create_run.repository, '');
  labels := coalesce(create_run.labels, '{}');
  priority := coalesce(create_run.priority, 0);
  concurrency_key := coalesce(create_run.concurrency_key, '');
  max_attempts := coalesce(create_run.max_attempts, 0);
  request_id := coalesce(create_run.request_id, '');
  trace_parent := coalesce(create_run.trace_parent, '');

  violations := baton.run_violations(
    create_run.pipeline, create_run.repository, create_run.labels, create_run.input, create_run.priority,
    create_run.schedule_time, create_run.concurrency_key, create_run.max_attempts, create_run.request_id,
    create_run.trace_parent);
  if violations <> '{}' then
    raise exception using
      errcode = 'invalid_parameter_value', schema = 'baton', table = 'runs',
      column = pg_catalog.substring(violations[1], '^[a-z_]+'),
      message = pg_catalog.array_to_string(violations, '; ');
  end if;
  -- The API's times are cut to the millisecond: the same request has to be the same here.
  schedule_time := pg_catalog.date_trunc('milliseconds', create_run.schedule_time);

  -- Waits for a transaction that has created a run with this request_id and is not done.
  insert into baton.runs as r (
    pipeline, repository, labels, input, priority, schedule_time, concurrency_key, max_attempts, request_id,
    trace_parent
  ) values (
    create_run.pipeline, create_run.repository, create_run.labels, create_run.input, create_run.priority,
    create_run.schedule_time, create_run.concurrency_key, nullif(create_run.max_attempts, 0),
    nullif(create_run.request_id, ''), create_run.trace_parent
  )
  on conflict (request_id) where request_id is not null do nothing
  returning r.id into made;
  if made is not null then
    return made;
  end if;

  select
    r.id,
    baton.is_request_of(
      r, create_run.pipeline, create_run.repository, create_run.labels, create_run.input, create_run.priority,
      create_run.schedule_time, create_run.concurrency_key, create_run.max_attempts)
    into made, same
    from baton.runs r
    where r.request_id = create_run.request_id;
  if made is null then
    raise exception using
      errcode = 'serialization_failure',
      message = pg_catalog.format('the run of request_id %L was just removed: try again', create_run.request_id);
  end if;
  if not same then
    raise exception using
      errcode = 'unique_violation', schema = 'baton', table = 'runs', constraint = 'runs_request_id_key',
      message = pg_catalog.format('request_id %L was used for a run with other content', create_run.request_id),
      detail = pg_catalog.format('It is run %s.', made);
  end if;
  return made;
end
$$;

comment on function baton.create_run is
  'Creates a run in this transaction and returns its id. The parameters mean what CreateRun of the API says.';

------------------------------------------------------------------------------------------------------------ views

-- Of more than one table each, so that PostgreSQL refuses to write through them. With 1,000,000 runs, 10,000 of them
-- ACTIVE and 90,000 PENDING: who is ACTIVE in one status for an hour takes 14 ms, and stage_overview 48 ms.

create view baton.run_overview as
  select
    r.id, r.pipeline, r.stage, r.status, r.state, r.repository, r.labels, r.priority, r.concurrency_key,
    r.attempt, r.attempts_allowed as max_attempts, r.worker_id,
    since.status_time,
    greatest(pg_catalog.statement_timestamp() - since.status_time, interval '0') as in_status_for,
    case when r.state = 'PENDING' then r.claimable_time end as claimable_time,
    case when r.state = 'PENDING' and r.claimable_time <= pg_catalog.statement_timestamp()
      then pg_catalog.statement_timestamp() - r.claimable_time end as waiting_for,
    r.state = 'PENDING' and coalesce(s.paused or p.paused, false) as paused,
    r.lease_expire_time, r.cancel_requested, r.progress, r.status_message, r.error_code, r.error_message, r.version,
    r.create_time, r.update_time, r.start_time, r.end_time, r.request_id, r.trace_parent
  from baton.runs r
  left join baton.stages s on s.pipeline = r.pipeline and s.name = r.stage
  left join baton.pipelines p on p.name = r.pipeline
  cross join lateral (
    select coalesce(
      r.status_time,
      case r.state
        when 'PENDING' then least(r.claimable_time, r.update_time)
        when 'ACTIVE' then r.attempt_time
        else r.end_time
      end,
      r.create_time) as status_time
  ) since;

comment on view baton.run_overview is 'Every run that is kept, as it is now. Read only.';
comment on column baton.run_overview.id is 'The id of the run, as baton.create_run returns it.';
comment on column baton.run_overview.stage is 'The stage that it waits for or is in; empty when it has ended.';
comment on column baton.run_overview.status is 'Where it is, in the words of its pipeline.';
comment on column baton.run_overview.state is 'PENDING, ACTIVE, SUCCEEDED, FAILED or CANCELED. A condition on it lets PostgreSQL use an index.';
comment on column baton.run_overview.attempt is 'How often its stage has been claimed.';
comment on column baton.run_overview.max_attempts is 'The attempts that its stage has.';
comment on column baton.run_overview.worker_id is 'Who works on it, or did last.';
comment on column baton.run_overview.status_time is 'Since when it is in its status.';
comment on column baton.run_overview.in_status_for is 'For how long it has been in its status.';
comment on column baton.run_overview.claimable_time is 'From when on it can be claimed; null unless it is PENDING.';
comment on column baton.run_overview.waiting_for is 'For how long it could have been claimed; null unless it can be.';
comment on column baton.run_overview.paused is 'It waits, and its stage or its pipeline is paused.';
comment on column baton.run_overview.lease_expire_time is 'When its lease ends unless it is extended; null without a lease.';
comment on column baton.run_overview.cancel_requested is 'Its worker has been asked to stop.';
comment on column baton.run_overview.error_code is 'Why the latest attempt failed, for programs.';
comment on column baton.run_overview.error_message is 'Why the latest attempt failed, for people.';
comment on column baton.run_overview.version is 'Counts its changes, from 1.';
comment on column baton.run_overview.update_time is 'When it was changed last, its progress included.';
comment on column baton.run_overview.start_time is 'When it was claimed for the first time.';
comment on column baton.run_overview.end_time is 'When it ended; null while it is open.';

create view baton.stage_overview as
  select
    s.pipeline, s.name as stage, s.position, s.waiting_status, s.processing_status, s.done_status,
    s.paused or p.paused as paused,
    (select count(*) from baton.runs r
      where r.pipeline = s.pipeline and r.stage = s.name and r.state = 'PENDING') as pending_count,
    (select count(*) from baton.runs r
      where r.pipeline = s.pipeline and r.stage = s.name and r.state = 'PENDING'
        and r.claimable_time <= pg_catalog.statement_timestamp()) as claimable_count,
    (select count(*) from baton.runs r
      where r.pipeline = s.pipeline and r.stage = s.name and r.state = 'ACTIVE') as active_count,
    pg_catalog.statement_timestamp() - (select min(r.claimable_time) from baton.runs r
      where r.pipeline = s.pipeline and r.stage = s.name and r.state = 'PENDING'
        and r.claimable_time <= pg_catalog.statement_timestamp()) as oldest_waiting_for,
    nullif(s.max_active, 0) as max_active,
    nullif(s.max_active_per_key, 0) as max_active_per_key,
    s.max_attempts,
    s.lease_ms * interval '1 millisecond' as lease_duration,
    nullif(s.timeout_ms, 0) * interval '1 millisecond' as timeout
  from baton.stages s
  join baton.pipelines p on p.name = s.pipeline;

comment on view baton.stage_overview is 'Every stage of every pipeline, and the open runs in it. Read only.';
comment on column baton.stage_overview.position is 'The place of the stage in its pipeline, from 0.';
comment on column baton.stage_overview.waiting_status is 'The status in which runs wait for the stage.';
comment on column baton.stage_overview.processing_status is 'The status that a claim gives them.';
comment on column baton.stage_overview.done_status is 'The status of those that have passed the stage.';
comment on column baton.stage_overview.paused is 'The stage gives out no runs: it or its pipeline is paused.';
comment on column baton.stage_overview.pending_count is 'Runs that wait for the stage, those that are not claimable yet included.';
comment on column baton.stage_overview.claimable_count is 'Runs that wait and can be claimed.';
comment on column baton.stage_overview.active_count is 'Runs that are claimed for the stage.';
comment on column baton.stage_overview.oldest_waiting_for is 'For how long the run that has waited longest can be claimed; null when none can be.';
comment on column baton.stage_overview.max_active is 'How many runs may be ACTIVE at once; null for any number.';
comment on column baton.stage_overview.max_active_per_key is 'The same for runs with the same concurrency_key, or repository; null for any number.';
comment on column baton.stage_overview.max_attempts is 'Claims after which the stage gives up on a run that does not have a number of its own.';
comment on column baton.stage_overview.lease_duration is 'How long a lease lasts unless its claim says otherwise.';
comment on column baton.stage_overview.timeout is 'How long one attempt may take; null for any time.';

create view baton.run_history as
  select
    e.run_id, e.version, e.revision, e.append_time as time, e.type, e.previous_status, e.status, e.previous_stage,
    e.stage, e.state, e.pipeline, e.repository, e.attempt, e.worker_id, e.waited, e.progress, e.status_message,
    e.error_code, e.error_message, e.cancel_requested, e.schedule_time, e.output
  from baton.run_events e
  join baton.log l on e.revision >= l.oldest_revision;

comment on view baton.run_history is
  'Every change of every run that the log still keeps; each row is the run right after the change. Read only.';
comment on column baton.run_history.run_id is 'The id of the run. With it, the history of one run is found by an index.';
comment on column baton.run_history.version is 'The place of the change in the history of its run: 1, 2, 3 and so on.';
comment on column baton.run_history.revision is 'The place of the change among those of all runs, in the order of commits.';
comment on column baton.run_history.time is 'When the change was committed.';
comment on column baton.run_history.type is 'What the change was: CREATED, CLAIMED and so on, as in the API.';
comment on column baton.run_history.previous_status is 'The status before the change; empty for the first.';
comment on column baton.run_history.waited is 'For how long the run could have been claimed before this claim; null for other changes.';
comment on column baton.run_history.output is 'The output of the run after the change.';

------------------------------------------------------------------------------------------------------------ rights

-- Whoever writes runs by plain SQL needs rights on that table and no other: these read the definitions and append to
-- the log for everybody. They can only be called as triggers, and nobody else may hang them on a table of his own,
-- which would forge events. The path is fixed, so that nobody can put an operator or a table of his own under them.
alter function baton.runs_before_write() security definer set search_path = pg_catalog, pg_temp;
alter function baton.runs_append_event() security definer set search_path = pg_catalog, pg_temp;
revoke execute on function baton.runs_before_write(), baton.runs_append_event(), baton.runs_keep_request(),
  baton.create_run from public;

-- Down Migration

drop view baton.run_overview, baton.stage_overview, baton.run_history;
drop function baton.create_run, baton.run_violations, baton.label_violations, baton.input_violation,
  baton.json_text_bytes, baton.utf16_length, baton.is_request_of;

drop trigger runs_keep_request on baton.runs;
drop trigger runs_status_time_on_insert on baton.runs;
drop trigger runs_status_time_on_update on baton.runs;
drop function baton.runs_keep_request, baton.request_terms, baton.runs_keep_status_time;
alter table baton.runs drop column requested, drop column status_time;

alter function baton.runs_before_write() security invoker reset search_path;
grant execute on function baton.runs_before_write(), baton.runs_append_event() to public;

create or replace function baton.runs_append_event() returns trigger
  language plpgsql
  as $$
declare
  inserted constant boolean := tg_op = 'INSERT';
  kind baton.event_type;
begin
  if inserted then
    kind := 'CREATED';
  elsif new.status = old.status and new.stage = old.stage then
    kind := case when new.cancel_requested and not old.cancel_requested then 'CANCEL_REQUESTED' else 'UPDATED' end;
  elsif new.state not in ('PENDING', 'ACTIVE') then
    kind := new.state::text::baton.event_type;
  elsif new.state = 'ACTIVE' then
    kind := case when old.state = 'PENDING' then 'CLAIMED' else 'UPDATED' end;
  elsif old.state = 'ACTIVE' then
    kind := case
      when new.stage <> old.stage then 'STAGE_COMPLETED'
      when new.attempt < old.attempt then 'RELEASED'
      when new.error_code in ('LEASE_EXPIRED', 'ATTEMPT_TIMED_OUT') then 'LEASE_EXPIRED'
      else 'RETRY_SCHEDULED'
    end;
  elsif old.state = 'PENDING' then
    kind := 'UPDATED';
  else
    kind := 'RETRIED';
  end if;

  perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);
  insert into baton.run_events (
    revision, type, previous_status, previous_stage, previous_state,
    run_id, pipeline, stage, status, state, repository, labels, output, error_code, error_message, priority,
    concurrency_key, attempt, attempts_allowed, worker_id, lease_id, lease_expire_time, schedule_time,
    cancel_requested, progress, status_message, checkpoint, version, create_time, update_time, start_time, end_time,
    request_id, trace_parent
  ) values (
    pg_catalog.nextval('baton.revision'), kind,
    case when inserted then '' else old.status end,
    case when inserted then '' else old.stage end,
    case when inserted then null else old.state end,
    new.id, new.pipeline, new.stage, new.status, new.state, new.repository, new.labels, new.output, new.error_code,
    new.error_message, new.priority, new.concurrency_key, new.attempt, new.attempts_allowed, new.worker_id,
    case when new.lease_id is null and not inserted then old.lease_id else new.lease_id end,
    new.lease_expire_time, new.schedule_time, new.cancel_requested, new.progress, new.status_message, new.checkpoint,
    new.version, new.create_time, new.update_time, new.start_time, new.end_time, new.request_id, new.trace_parent
  );
  -- A doorbell without contents: listeners read the log. Many in one transaction are delivered as one.
  perform pg_catalog.pg_notify('baton_log', '');
  return null;
end
$$;

alter table baton.run_events drop column waited;
