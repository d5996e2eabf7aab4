-- Made by pg_dump from the migrations; test/db/schema.test.ts compares it and says how to renew it.

CREATE SCHEMA baton;

CREATE TYPE baton.event_type AS ENUM (
    'CREATED',
    'CLAIMED',
    'UPDATED',
    'STAGE_COMPLETED',
    'SUCCEEDED',
    'FAILED',
    'CANCELED',
    'CANCEL_REQUESTED',
    'RELEASED',
    'RETRY_SCHEDULED',
    'LEASE_EXPIRED',
    'RETRIED'
);

CREATE TYPE baton.run_state AS ENUM (
    'PENDING',
    'ACTIVE',
    'SUCCEEDED',
    'FAILED',
    'CANCELED'
);

CREATE FUNCTION baton.create_run(pipeline text DEFAULT 'ci'::text, repository text DEFAULT ''::text, labels jsonb DEFAULT '{}'::jsonb, input jsonb DEFAULT NULL::jsonb, priority integer DEFAULT 0, schedule_time timestamp with time zone DEFAULT NULL::timestamp with time zone, concurrency_key text DEFAULT ''::text, max_attempts integer DEFAULT 0, request_id text DEFAULT ''::text, trace_parent text DEFAULT ''::text) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION baton.create_run(pipeline text, repository text, labels jsonb, input jsonb, priority integer, schedule_time timestamp with time zone, concurrency_key text, max_attempts integer, request_id text, trace_parent text) IS 'Creates a run in this transaction and returns its id. The parameters mean what CreateRun of the API says.';

CREATE FUNCTION baton.event_type_of(old_status text, old_stage text, old_state baton.run_state, old_cancel_requested boolean, old_attempt integer, new_status text, new_stage text, new_state baton.run_state, new_cancel_requested boolean, new_attempt integer, new_error_code text) RETURNS baton.event_type
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select case
      when old_status is null then 'CREATED'::baton.event_type
      when new_status = old_status and new_stage = old_stage then
        case when new_cancel_requested and not old_cancel_requested then 'CANCEL_REQUESTED'::baton.event_type
        else 'UPDATED'::baton.event_type end
      when new_state = 'SUCCEEDED' then 'SUCCEEDED'::baton.event_type
      when new_state = 'FAILED' then 'FAILED'::baton.event_type
      when new_state = 'CANCELED' then 'CANCELED'::baton.event_type
      when new_state = 'ACTIVE' then
        case when old_state = 'PENDING' then 'CLAIMED'::baton.event_type else 'UPDATED'::baton.event_type end
      when old_state = 'ACTIVE' then
        case
          when new_stage <> old_stage then 'STAGE_COMPLETED'::baton.event_type
          when new_attempt < old_attempt then 'RELEASED'::baton.event_type
          when new_error_code in ('LEASE_EXPIRED', 'ATTEMPT_TIMED_OUT') then 'LEASE_EXPIRED'::baton.event_type
          else 'RETRY_SCHEDULED'::baton.event_type
        end
      when old_state = 'PENDING' then 'UPDATED'::baton.event_type
      else 'RETRIED'::baton.event_type
    end
  $$;

CREATE FUNCTION baton.identify_log(OUT outcome text, OUT system_is_known boolean) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

CREATE FUNCTION baton.input_violation(input jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $_$
declare
  body constant text := input::text;
  bytes constant integer := pg_catalog.octet_length(body);
begin
  return case
    when pg_catalog.jsonb_typeof(input) <> 'object' then 'input: must be an object'
    when pg_catalog.strpos(body, '"__proto__"') > 0 and pg_catalog.jsonb_path_exists(input, '$.** ? (exists (@."__proto__"))')
      then 'input: must not have the key __proto__'
    when bytes <= 60 then null
    when pg_catalog.jsonb_path_exists(input, 'strict $.**{30}') then 'input: must be nested at most 30 deep'
    when bytes > 300 and pg_catalog.jsonb_path_exists(
        input, 'strict $.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))')
      then 'input: must have only numbers that fit a double'
    -- A blank for each comma and colon makes a text longer by less than half.
    when bytes > 1572864 or (bytes > 1048576 and baton.json_text_bytes(input) > 1048576)
      then 'input: must have at most 1048576 bytes as JSON'
    -- A value takes two bytes at least: its brackets, or itself and a comma.
    when bytes > 131072 and (select count(*) from pg_catalog.jsonb_path_query(input, 'strict $.**')) > 65537
      then 'input: must hold at most 65536 values'
  end;
end
$_$;

CREATE FUNCTION baton.uuid_v7() RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    AS $$
    select pg_catalog.encode(
      pg_catalog.set_bit(pg_catalog.set_bit(
        overlay(pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
          placing substring(pg_catalog.int8send((extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint) from 3)
          from 1 for 6),
        52, 1), 53, 1),
      'hex')::uuid
  $$;

CREATE TABLE baton.runs (
    id uuid DEFAULT baton.uuid_v7() NOT NULL,
    pipeline text DEFAULT 'ci'::text NOT NULL,
    stage text NOT NULL,
    status text NOT NULL,
    state baton.run_state NOT NULL,
    repository text DEFAULT ''::text NOT NULL,
    labels jsonb DEFAULT '{}'::jsonb NOT NULL,
    input jsonb,
    output jsonb,
    error_code text,
    error_message text,
    priority integer DEFAULT 0 NOT NULL,
    concurrency_key text DEFAULT ''::text NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    max_attempts integer,
    attempts_allowed integer NOT NULL,
    worker_id text DEFAULT ''::text NOT NULL,
    claim_request_id text,
    attempt_time timestamp with time zone,
    lease_number bigint DEFAULT 0 NOT NULL,
    lease_id uuid,
    lease_ms bigint,
    lease_expire_time timestamp with time zone,
    schedule_time timestamp with time zone,
    claimable_time timestamp with time zone NOT NULL,
    cancel_requested boolean DEFAULT false NOT NULL,
    progress double precision DEFAULT 0 NOT NULL,
    status_message text DEFAULT ''::text NOT NULL,
    checkpoint jsonb,
    version bigint NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    start_time timestamp with time zone,
    end_time timestamp with time zone,
    ended_stage text DEFAULT ''::text NOT NULL,
    request_id text,
    request_hash bytea,
    trace_parent text DEFAULT ''::text NOT NULL,
    status_time timestamp with time zone DEFAULT statement_timestamp(),
    requested jsonb,
    repeated_lease bigint,
    CONSTRAINT runs_attempt_is_valid CHECK ((attempt >= 0)),
    CONSTRAINT runs_checkpoint_is_an_object CHECK (((checkpoint IS NULL) OR (jsonb_typeof(checkpoint) = 'object'::text))),
    CONSTRAINT runs_id_is_uuid_v7 CHECK (((get_byte(uuid_send(id), 6) >> 4) = 7)),
    CONSTRAINT runs_input_is_an_object CHECK (((input IS NULL) OR (jsonb_typeof(input) = 'object'::text))),
    CONSTRAINT runs_labels_are_texts CHECK (((jsonb_typeof(labels) = 'object'::text) AND (NOT (labels @? '$.*?(@.type() != "string")'::jsonpath)))),
    CONSTRAINT runs_lease_is_whole CHECK ((((lease_id IS NULL) = (lease_expire_time IS NULL)) AND ((lease_id IS NULL) OR ((state = 'ACTIVE'::baton.run_state) AND (lease_ms IS NOT NULL) AND (lease_ms > 0))))),
    CONSTRAINT runs_max_attempts_is_valid CHECK (((max_attempts >= 1) AND (max_attempts <= 100))),
    CONSTRAINT runs_output_is_an_object CHECK (((output IS NULL) OR (jsonb_typeof(output) = 'object'::text))),
    CONSTRAINT runs_priority_is_valid CHECK (((priority >= 0) AND (priority <= 9))),
    CONSTRAINT runs_progress_is_valid CHECK (((progress >= (0)::double precision) AND (progress <= (1)::double precision))),
    CONSTRAINT runs_repository_fits CHECK ((length(repository) <= 256)),
    CONSTRAINT runs_schedule_time_is_valid CHECK (((schedule_time >= '0001-01-01 00:00:00+00'::timestamp with time zone) AND (schedule_time < '10000-01-01 00:00:00+00'::timestamp with time zone)))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='2000', autovacuum_analyze_scale_factor='0.05', autovacuum_analyze_threshold='2000', autovacuum_vacuum_cost_delay='0');

CREATE FUNCTION baton.is_request_of(run baton.runs, pipeline text, repository text, labels jsonb, input jsonb, priority integer, schedule_time timestamp with time zone, concurrency_key text, max_attempts integer) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select run.pipeline = pipeline and run.repository = repository and run.labels = labels
      and run.input is not distinct from input
      and coalesce(
          run.requested,
          baton.request_terms(run.priority, run.schedule_time, run.concurrency_key, run.max_attempts)
        ) = baton.request_terms(priority, schedule_time, concurrency_key, max_attempts)
  $$;

CREATE FUNCTION baton.json_text_bytes(value jsonb) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $_$
    select pg_catalog.octet_length(value::text) - coalesce(sum(case pg_catalog.jsonb_typeof(part)
        when 'object' then greatest(2 * (select count(*) from pg_catalog.jsonb_object_keys(part)) - 1, 0)
        when 'array' then greatest(pg_catalog.jsonb_array_length(part) - 1, 0)
        else 0
      end), 0)::bigint
    from pg_catalog.jsonb_path_query(value, 'strict $.**') as part
  $_$;

CREATE FUNCTION baton.label_violations(labels jsonb) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $_$
begin
  if pg_catalog.jsonb_typeof(labels) <> 'object' then
    return array['labels: must be an object of texts'];
  end if;
  -- Too short for a key, a value or a number of labels that is too great.
  if pg_catalog.octet_length(labels::text) <= 64 and not labels ?| array['', '__proto__']
    and not labels @? '$.* ? (@.type() != "string")' then
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
      (case when label.key = '__proto__' then 'must not have the key __proto__' end),
      (case when pg_catalog.octet_length(label.key) > 63 and baton.utf16_length(label.key) > 63
        then 'must have at most 63 characters in its key' end),
      (case when pg_catalog.jsonb_typeof(label.value) <> 'string' then 'must be a text' end),
      (case when pg_catalog.octet_length(label.value::text) > 256 and baton.utf16_length(label.value #>> '{}') > 256
        then 'must have at most 256 characters' end)
    ) as found (problem)
    where problem is not null);
end
$_$;

CREATE FUNCTION baton.refuse_status(pipeline text, status text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if not exists (select from baton.pipelines p where p.name = refuse_status.pipeline) then
    raise exception using
      errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_pipeline_exists',
      message = pg_catalog.format('there is no pipeline %L', refuse_status.pipeline);
  end if;
  raise exception using
    errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_status_of_pipeline',
    message = pg_catalog.format('pipeline %L has no status %L', refuse_status.pipeline, refuse_status.status),
    hint = pg_catalog.format('its statuses are: %s', (
      select pg_catalog.string_agg(ps.status, ', ' order by ps.status)
      from baton.pipeline_statuses ps where ps.pipeline = refuse_status.pipeline));
end
$$;

CREATE FUNCTION baton.request_terms(priority integer, schedule_time timestamp with time zone, concurrency_key text, max_attempts integer) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select pg_catalog.jsonb_build_object(
      'priority', priority,
      -- A number, because the text of a time depends on the session.
      'schedule_time', extract(epoch from schedule_time),
      'concurrency_key', concurrency_key,
      'max_attempts', nullif(max_attempts, 0))
  $$;

CREATE FUNCTION baton.run_violations(pipeline text, repository text, labels jsonb, input jsonb, priority integer, schedule_time timestamp with time zone, concurrency_key text, max_attempts integer, request_id text, trace_parent text) RETURNS text[]
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $_$
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
$_$;

CREATE FUNCTION baton.runs_admit_created() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  pipelines text[];
  stages text[];
  statuses text[];
  states baton.run_state[];
begin
  select array_agg(d.pipeline), array_agg(d.stage), array_agg(d.status), array_agg(d.state)
    into pipelines, stages, statuses, states
    from (select distinct n.pipeline, n.stage, n.status, n.state from new_runs n) d;
  if pipelines is null then return null; end if;
  perform from baton.pipelines p where p.name = any (pipelines) order by p.name for key share;
  -- In a snapshot of its own, from after the lock.
  perform baton.refuse_status(d.pipeline, d.status)
    from unnest(pipelines, stages, statuses, states) as d (pipeline, stage, status, state)
    where not exists (
      select from baton.pipeline_statuses ps
      where ps.pipeline = d.pipeline and ps.status = d.status and ps.stage = d.stage and ps.state = d.state)
    limit 1;
  return null;
end
$$;

CREATE FUNCTION baton.runs_admit_updated() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  pipelines text[];
  stages text[];
  statuses text[];
  states baton.run_state[];
begin
  select array_agg(d.pipeline), array_agg(d.stage), array_agg(d.status), array_agg(d.state)
    into pipelines, stages, statuses, states
    from (
      select distinct n.pipeline, n.stage, n.status, n.state
      from new_runs n
      where (n.id, n.status) not in (select o.id, o.status from old_runs o)
    ) d;
  if pipelines is null then return null; end if;
  perform from baton.pipelines p where p.name = any (pipelines) order by p.name for key share;
  -- In a snapshot of its own, from after the lock.
  perform baton.refuse_status(d.pipeline, d.status)
    from unnest(pipelines, stages, statuses, states) as d (pipeline, stage, status, state)
    where not exists (
      select from baton.pipeline_statuses ps
      where ps.pipeline = d.pipeline and ps.status = d.status and ps.stage = d.stage and ps.state = d.state)
    limit 1;
  return null;
end
$$;

CREATE FUNCTION baton.runs_append_created() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  -- A statement that found nothing to do has nothing to tell either.
  if not exists (select from new_runs) then return null; end if;
  perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);
  insert into baton.run_events (
    revision, type, previous_status, previous_stage, previous_state,
    run_id, pipeline, stage, status, state, repository, labels, output, error_code, error_message, priority,
    concurrency_key, attempt, attempts_allowed, worker_id, lease_id, lease_expire_time, schedule_time,
    cancel_requested, progress, status_message, checkpoint, version, create_time, update_time, start_time, end_time,
    request_id, trace_parent, waited
  )
  select
    pg_catalog.nextval('baton.revision'), 'CREATED', '', '', null,
    n.id, n.pipeline, n.stage, n.status, n.state, n.repository, n.labels, n.output, n.error_code,
    n.error_message, n.priority, n.concurrency_key, n.attempt, n.attempts_allowed, n.worker_id,
    n.lease_id, n.lease_expire_time, n.schedule_time, n.cancel_requested, n.progress, n.status_message, n.checkpoint,
    n.version, n.create_time, n.update_time, n.start_time, n.end_time, n.request_id, n.trace_parent, null
  from new_runs n;
  perform pg_catalog.pg_notify('baton_log', '');
  return null;
end
$$;

CREATE FUNCTION baton.runs_append_event() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  inserted constant boolean := tg_op = 'INSERT';
  kind baton.event_type;
begin
  if inserted then
    kind := 'CREATED';
  else
    kind := baton.event_type_of(
      old.status, old.stage, old.state, old.cancel_requested, old.attempt,
      new.status, new.stage, new.state, new.cancel_requested, new.attempt, new.error_code);
  end if;

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

CREATE FUNCTION baton.runs_append_updated() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_nestloop TO 'off'
    AS $$
begin
  if not exists (select from new_runs) then return null; end if;
  perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);
  insert into baton.run_events (
    revision, type, previous_status, previous_stage, previous_state,
    run_id, pipeline, stage, status, state, repository, labels, output, error_code, error_message, priority,
    concurrency_key, attempt, attempts_allowed, worker_id, lease_id, lease_expire_time, schedule_time,
    cancel_requested, progress, status_message, checkpoint, version, create_time, update_time, start_time, end_time,
    request_id, trace_parent, waited
  )
  select
    pg_catalog.nextval('baton.revision'), t.type, o.status, o.stage, o.state,
    n.id, n.pipeline, n.stage, n.status, n.state, n.repository, n.labels, n.output, n.error_code,
    n.error_message, n.priority, n.concurrency_key, n.attempt, n.attempts_allowed, n.worker_id,
    coalesce(n.lease_id, o.lease_id), n.lease_expire_time, n.schedule_time, n.cancel_requested, n.progress,
    n.status_message, n.checkpoint, n.version, n.create_time, n.update_time, n.start_time, n.end_time, n.request_id,
    n.trace_parent,
    case when t.type = 'CLAIMED' then greatest(n.update_time - o.claimable_time, interval '0') end
  from new_runs n
  join old_runs o on o.id = n.id
  cross join lateral (
    select baton.event_type_of(
      o.status, o.stage, o.state, o.cancel_requested, o.attempt,
      n.status, n.stage, n.state, n.cancel_requested, n.attempt, n.error_code) as type
  ) t
  where n.version <> o.version;
  perform pg_catalog.pg_notify('baton_log', '');
  return null;
end
$$;

CREATE FUNCTION baton.runs_before_write() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  meaning record;
  moved boolean := tg_op = 'INSERT';
begin
  if tg_op = 'INSERT' then
    if new.status is null then
      select p.initial_status into new.status from baton.pipelines p where p.name = new.pipeline;
    end if;
    new.version := 1;
    -- The time of the statement: runs of one batch are claimed in the order of their ids, not in that of their rows.
    new.create_time := pg_catalog.statement_timestamp();
    new.update_time := new.create_time;
    new.claimable_time := greatest(new.create_time, new.schedule_time);
  else
    -- Says what is there already: no change, whoever repeats it.
    if (
      old.stage, old.status, old.state, old.output, old.error_code, old.error_message, old.priority,
      old.concurrency_key, old.attempt, old.max_attempts, old.attempts_allowed, old.worker_id, old.claim_request_id,
      old.attempt_time, old.ended_stage, old.lease_number, old.lease_id, old.lease_ms, old.schedule_time,
      old.claimable_time, old.cancel_requested, old.progress, old.status_message, old.checkpoint, old.version,
      old.update_time, old.start_time, old.end_time, old.request_hash
    ) is not distinct from (
      new.stage, new.status, new.state, new.output, new.error_code, new.error_message, new.priority,
      new.concurrency_key, new.attempt, new.max_attempts, new.attempts_allowed, new.worker_id, new.claim_request_id,
      new.attempt_time, new.ended_stage, new.lease_number, new.lease_id, new.lease_ms, new.schedule_time,
      new.claimable_time, new.cancel_requested, new.progress, new.status_message, new.checkpoint, new.version,
      new.update_time, new.start_time, new.end_time, new.request_hash
    ) then return new; end if;
    new.version := old.version + 1;
    new.update_time := pg_catalog.clock_timestamp();
    moved := (new.status, new.stage, new.state) is distinct from (old.status, old.stage, old.state);
    if new.schedule_time is distinct from old.schedule_time then
      new.claimable_time := greatest(new.update_time, new.schedule_time);
    end if;
  end if;

  if not moved then
    if new.max_attempts is distinct from old.max_attempts then
      select coalesce(new.max_attempts, s.max_attempts, old.attempts_allowed) into new.attempts_allowed
        from (select) as one left join baton.stages s on s.pipeline = new.pipeline and s.name = new.stage;
    end if;
    return new;
  end if;

  -- Held until commit, as by a foreign key: a definition is not replaced under a run that is just being moved by it.
  perform from baton.pipelines p where p.name = new.pipeline for key share;
  select ps.stage, ps.state, s.max_attempts into meaning
    from baton.pipeline_statuses ps
    left join baton.stages s on s.pipeline = ps.pipeline and s.name = ps.stage
    where ps.pipeline = new.pipeline and ps.status = new.status;
  if not found then
    perform baton.refuse_status(new.pipeline, new.status);
  end if;

  new.stage := meaning.stage;
  new.state := meaning.state;

  -- The status means another stage since its pipeline was redefined, or plain SQL wrote what is derived: the run has
  -- not moved, and keeps its lease and its place.
  if tg_op = 'UPDATE' and new.status = old.status and new.state = old.state then
    new.attempts_allowed := coalesce(new.max_attempts, meaning.max_attempts, old.attempts_allowed);
    return new;
  end if;

  if tg_op = 'INSERT' then
    new.attempts_allowed := coalesce(new.max_attempts, meaning.max_attempts, 1);
    if new.state = 'ACTIVE' then
      new.attempt := greatest(new.attempt, 1);
      new.attempt_time := new.create_time;
      new.start_time := coalesce(new.start_time, new.create_time);
    elsif new.state <> 'PENDING' then
      new.start_time := coalesce(new.start_time, new.create_time);
      new.end_time := coalesce(new.end_time, new.create_time);
    end if;
    return new;
  end if;

  -- A status that was reached without a new lease ends the old one: its token no longer fits.
  if new.lease_number = old.lease_number then
    new.lease_id := null;
    new.lease_ms := null;
    new.lease_expire_time := null;
  end if;
  -- The definition as it is at this step, also within a stage: its number may have changed since the run came here. A
  -- run that has failed keeps the number by which that was decided.
  new.attempts_allowed := coalesce(new.max_attempts, meaning.max_attempts, new.attempts_allowed);

  if new.state = 'ACTIVE' then
    if old.state <> 'ACTIVE' or new.stage <> old.stage then
      new.attempt := case when new.stage = old.stage then old.attempt + 1 else 1 end;
      new.attempt_time := new.update_time;
      new.start_time := coalesce(old.start_time, new.update_time);
      new.progress := 0;
      new.status_message := '';
      -- The error of an attempt before; its history keeps it.
      new.error_code := null;
      new.error_message := null;
      -- Taken by plain SQL that does not say who it is: nobody's name is better than the last worker's.
      if new.lease_number = old.lease_number and new.worker_id = old.worker_id then
        new.worker_id := '';
      end if;
    end if;
    new.end_time := null;
  elsif new.state = 'PENDING' then
    new.claimable_time := greatest(new.update_time, new.schedule_time);
    new.end_time := null;
    if old.state not in ('PENDING', 'ACTIVE') then
      new.cancel_requested := false;
      new.progress := 0;
    end if;
    if new.stage <> old.stage then
      new.attempt := 0;
      new.checkpoint := null;
      -- A stage that was completed leaves no error behind; RetryRun starts clean too.
      new.error_code := null;
      new.error_message := null;
    end if;
  else
    if old.stage <> '' then
      new.ended_stage := old.stage;
    end if;
    new.end_time := new.update_time;
    new.start_time := coalesce(old.start_time, new.update_time);
    if new.state = 'SUCCEEDED' then
      new.error_code := null;
      new.error_message := null;
      new.progress := 1;
    end if;
  end if;
  return new;
end
$$;

CREATE FUNCTION baton.runs_keep_request() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  new.requested := baton.request_terms(new.priority, new.schedule_time, new.concurrency_key, new.max_attempts);
  return new;
end
$$;

CREATE FUNCTION baton.runs_keep_status_time() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  new.status_time := case
    when tg_op = 'INSERT' then new.create_time
    when new.status is distinct from old.status then new.update_time
    else old.status_time
  end;
  return new;
end
$$;

CREATE FUNCTION baton.runs_refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  raise exception using
    errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_identity_is_fixed',
    message = pg_catalog.format('run %s: id, pipeline, repository, labels, input, create_time, request_id and trace_parent never change', old.id);
end
$$;

CREATE FUNCTION baton.runs_refuse_delete() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  raise exception using
    errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_open_is_kept',
    message = pg_catalog.format('run %s is not finished: cancel it before you delete it', old.id);
end
$$;

CREATE FUNCTION baton.runs_refuse_truncate() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  raise exception using
    errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_open_is_kept',
    message = 'runs cannot be truncated: open ones would vanish without an event';
end
$$;

CREATE FUNCTION baton.utf16_length(value text) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
    select pg_catalog.length(value)
      + pg_catalog.length(pg_catalog.regexp_replace(value, '[\U00000001-\U0000FFFF]', '', 'g'))
  $$;

CREATE TABLE baton.log (
    singleton boolean DEFAULT true NOT NULL,
    epoch uuid DEFAULT gen_random_uuid() NOT NULL,
    oldest_revision bigint DEFAULT 1 NOT NULL,
    system_identifier bigint,
    database_oid oid,
    log_oid oid,
    timeline bigint,
    CONSTRAINT log_is_one_row CHECK (singleton)
);

CREATE TABLE baton.log_holes (
    after_revision bigint NOT NULL,
    through_revision bigint NOT NULL,
    timeline bigint NOT NULL,
    create_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT log_holes_are_wide CHECK ((through_revision > after_revision))
);

CREATE TABLE baton.pipeline_statuses (
    pipeline text NOT NULL,
    status text NOT NULL,
    stage text NOT NULL,
    state baton.run_state NOT NULL,
    CONSTRAINT pipeline_statuses_stage_fits_state CHECK (((stage <> ''::text) = (state = ANY (ARRAY['PENDING'::baton.run_state, 'ACTIVE'::baton.run_state]))))
);

CREATE TABLE baton.pipelines (
    name text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    initial_status text NOT NULL,
    error_status text NOT NULL,
    canceled_status text NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    generation bigint DEFAULT 1 NOT NULL,
    create_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    update_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pipelines_name_is_valid CHECK ((name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'::text))
);

CREATE SEQUENCE baton.revision
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE baton.run_events (
    revision bigint NOT NULL,
    append_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    type baton.event_type NOT NULL,
    previous_status text NOT NULL,
    previous_stage text NOT NULL,
    previous_state baton.run_state,
    run_id uuid NOT NULL,
    pipeline text NOT NULL,
    stage text NOT NULL,
    status text NOT NULL,
    state baton.run_state NOT NULL,
    repository text NOT NULL,
    labels jsonb NOT NULL,
    output jsonb,
    error_code text,
    error_message text,
    priority integer NOT NULL,
    concurrency_key text NOT NULL,
    attempt integer NOT NULL,
    attempts_allowed integer NOT NULL,
    worker_id text NOT NULL,
    lease_id uuid,
    lease_expire_time timestamp with time zone,
    schedule_time timestamp with time zone,
    cancel_requested boolean NOT NULL,
    progress double precision NOT NULL,
    status_message text NOT NULL,
    checkpoint jsonb,
    version bigint NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    start_time timestamp with time zone,
    end_time timestamp with time zone,
    request_id text,
    trace_parent text NOT NULL,
    waited interval
)
PARTITION BY RANGE (revision);

CREATE TABLE baton.run_events_default (
    revision bigint NOT NULL,
    append_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    type baton.event_type NOT NULL,
    previous_status text NOT NULL,
    previous_stage text NOT NULL,
    previous_state baton.run_state,
    run_id uuid NOT NULL,
    pipeline text NOT NULL,
    stage text NOT NULL,
    status text NOT NULL,
    state baton.run_state NOT NULL,
    repository text NOT NULL,
    labels jsonb NOT NULL,
    output jsonb,
    error_code text,
    error_message text,
    priority integer NOT NULL,
    concurrency_key text NOT NULL,
    attempt integer NOT NULL,
    attempts_allowed integer NOT NULL,
    worker_id text NOT NULL,
    lease_id uuid,
    lease_expire_time timestamp with time zone,
    schedule_time timestamp with time zone,
    cancel_requested boolean NOT NULL,
    progress double precision NOT NULL,
    status_message text NOT NULL,
    checkpoint jsonb,
    version bigint NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    start_time timestamp with time zone,
    end_time timestamp with time zone,
    request_id text,
    trace_parent text NOT NULL,
    waited interval
);

CREATE TABLE baton.run_events_p0 (
    revision bigint NOT NULL,
    append_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    type baton.event_type NOT NULL,
    previous_status text NOT NULL,
    previous_stage text NOT NULL,
    previous_state baton.run_state,
    run_id uuid NOT NULL,
    pipeline text NOT NULL,
    stage text NOT NULL,
    status text NOT NULL,
    state baton.run_state NOT NULL,
    repository text NOT NULL,
    labels jsonb NOT NULL,
    output jsonb,
    error_code text,
    error_message text,
    priority integer NOT NULL,
    concurrency_key text NOT NULL,
    attempt integer NOT NULL,
    attempts_allowed integer NOT NULL,
    worker_id text NOT NULL,
    lease_id uuid,
    lease_expire_time timestamp with time zone,
    schedule_time timestamp with time zone,
    cancel_requested boolean NOT NULL,
    progress double precision NOT NULL,
    status_message text NOT NULL,
    checkpoint jsonb,
    version bigint NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    start_time timestamp with time zone,
    end_time timestamp with time zone,
    request_id text,
    trace_parent text NOT NULL,
    waited interval
);

CREATE VIEW baton.run_history AS
 SELECT e.run_id,
    e.version,
    e.revision,
    e.append_time AS "time",
    e.type,
    e.previous_status,
    e.status,
    e.previous_stage,
    e.stage,
    e.state,
    e.pipeline,
    e.repository,
    e.attempt,
    e.worker_id,
    e.waited,
    e.progress,
    e.status_message,
    e.error_code,
    e.error_message,
    e.cancel_requested,
    e.schedule_time,
    e.output
   FROM (baton.run_events e
     JOIN baton.log l ON ((e.revision >= l.oldest_revision)));

COMMENT ON VIEW baton.run_history IS 'Every change of every run that the log still keeps; each row is the run right after the change. Read only.';

COMMENT ON COLUMN baton.run_history.run_id IS 'The id of the run. With it, the history of one run is found by an index.';

COMMENT ON COLUMN baton.run_history.version IS 'The place of the change in the history of its run: 1, 2, 3 and so on.';

COMMENT ON COLUMN baton.run_history.revision IS 'The place of the change among those of all runs, in the order of commits.';

COMMENT ON COLUMN baton.run_history."time" IS 'When the change was committed.';

COMMENT ON COLUMN baton.run_history.type IS 'What the change was: CREATED, CLAIMED and so on, as in the API.';

COMMENT ON COLUMN baton.run_history.previous_status IS 'The status before the change; empty for the first.';

COMMENT ON COLUMN baton.run_history.waited IS 'For how long the run could have been claimed before this claim; null for other changes.';

COMMENT ON COLUMN baton.run_history.output IS 'The output of the run after the change.';

CREATE TABLE baton.stages (
    pipeline text NOT NULL,
    "position" integer NOT NULL,
    name text NOT NULL,
    waiting_status text NOT NULL,
    processing_status text NOT NULL,
    done_status text NOT NULL,
    lease_ms bigint NOT NULL,
    timeout_ms bigint NOT NULL,
    max_attempts integer NOT NULL,
    backoff_initial_ms bigint NOT NULL,
    backoff_multiplier double precision NOT NULL,
    backoff_max_ms bigint NOT NULL,
    backoff_jitter double precision NOT NULL,
    max_active integer NOT NULL,
    max_active_per_key integer NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    CONSTRAINT stages_numbers_are_valid CHECK ((("position" >= 0) AND (lease_ms > 0) AND (timeout_ms >= 0) AND (max_attempts > 0) AND (backoff_initial_ms >= 0) AND (backoff_multiplier >= (1)::double precision) AND (backoff_max_ms >= 0) AND ((backoff_jitter >= (0)::double precision) AND (backoff_jitter <= (1)::double precision)) AND (max_active >= 0) AND (max_active_per_key >= 0)))
);

CREATE VIEW baton.run_overview AS
 SELECT r.id,
    r.pipeline,
    r.stage,
    r.status,
    r.state,
    r.repository,
    r.labels,
    r.priority,
    r.concurrency_key,
    r.attempt,
    r.attempts_allowed AS max_attempts,
    r.worker_id,
    since.status_time,
    GREATEST((statement_timestamp() - since.status_time), '00:00:00'::interval) AS in_status_for,
        CASE
            WHEN (r.state = 'PENDING'::baton.run_state) THEN r.claimable_time
            ELSE NULL::timestamp with time zone
        END AS claimable_time,
        CASE
            WHEN ((r.state = 'PENDING'::baton.run_state) AND (r.claimable_time <= statement_timestamp())) THEN (statement_timestamp() - r.claimable_time)
            ELSE NULL::interval
        END AS waiting_for,
    ((r.state = 'PENDING'::baton.run_state) AND COALESCE((s.paused OR p.paused), false)) AS paused,
    r.lease_expire_time,
    r.cancel_requested,
    r.progress,
    r.status_message,
    r.error_code,
    r.error_message,
    r.version,
    r.create_time,
    r.update_time,
    r.start_time,
    r.end_time,
    r.request_id,
    r.trace_parent
   FROM (((baton.runs r
     LEFT JOIN baton.stages s ON (((s.pipeline = r.pipeline) AND (s.name = r.stage))))
     LEFT JOIN baton.pipelines p ON ((p.name = r.pipeline)))
     CROSS JOIN LATERAL ( SELECT COALESCE(r.status_time,
                CASE r.state
                    WHEN 'PENDING'::baton.run_state THEN LEAST(r.claimable_time, r.update_time)
                    WHEN 'ACTIVE'::baton.run_state THEN r.attempt_time
                    ELSE r.end_time
                END, r.create_time) AS status_time) since);

COMMENT ON VIEW baton.run_overview IS 'Every run that is kept, as it is now. Read only.';

COMMENT ON COLUMN baton.run_overview.id IS 'The id of the run, as baton.create_run returns it.';

COMMENT ON COLUMN baton.run_overview.stage IS 'The stage that it waits for or is in; empty when it has ended.';

COMMENT ON COLUMN baton.run_overview.status IS 'Where it is, in the words of its pipeline.';

COMMENT ON COLUMN baton.run_overview.state IS 'PENDING, ACTIVE, SUCCEEDED, FAILED or CANCELED. A condition on it lets PostgreSQL use an index.';

COMMENT ON COLUMN baton.run_overview.attempt IS 'How often its stage has been claimed.';

COMMENT ON COLUMN baton.run_overview.max_attempts IS 'The attempts that its stage has.';

COMMENT ON COLUMN baton.run_overview.worker_id IS 'Who works on it, or did last.';

COMMENT ON COLUMN baton.run_overview.status_time IS 'Since when it is in its status.';

COMMENT ON COLUMN baton.run_overview.in_status_for IS 'For how long it has been in its status.';

COMMENT ON COLUMN baton.run_overview.claimable_time IS 'From when on it can be claimed; null unless it is PENDING.';

COMMENT ON COLUMN baton.run_overview.waiting_for IS 'For how long it could have been claimed; null unless it can be.';

COMMENT ON COLUMN baton.run_overview.paused IS 'It waits, and its stage or its pipeline is paused.';

COMMENT ON COLUMN baton.run_overview.lease_expire_time IS 'When its lease ends unless it is extended; null without a lease.';

COMMENT ON COLUMN baton.run_overview.cancel_requested IS 'Its worker has been asked to stop.';

COMMENT ON COLUMN baton.run_overview.error_code IS 'Why the latest attempt failed, for programs.';

COMMENT ON COLUMN baton.run_overview.error_message IS 'Why the latest attempt failed, for people.';

COMMENT ON COLUMN baton.run_overview.version IS 'Counts its changes, from 1.';

COMMENT ON COLUMN baton.run_overview.update_time IS 'When it was changed last, its progress included.';

COMMENT ON COLUMN baton.run_overview.start_time IS 'When it was claimed for the first time.';

COMMENT ON COLUMN baton.run_overview.end_time IS 'When it ended; null while it is open.';

CREATE TABLE baton.schedules (
    pipeline text NOT NULL,
    "position" integer NOT NULL,
    name text NOT NULL,
    cron text NOT NULL,
    time_zone text NOT NULL,
    repository text DEFAULT ''::text NOT NULL,
    labels jsonb DEFAULT '{}'::jsonb NOT NULL,
    input jsonb,
    priority integer DEFAULT 0 NOT NULL,
    concurrency_key text DEFAULT ''::text NOT NULL,
    max_attempts integer,
    next_time timestamp with time zone NOT NULL,
    due_time timestamp with time zone NOT NULL,
    CONSTRAINT schedules_input_is_an_object CHECK (((input IS NULL) OR (jsonb_typeof(input) = 'object'::text))),
    CONSTRAINT schedules_labels_are_texts CHECK (((jsonb_typeof(labels) = 'object'::text) AND (NOT (labels @? '$.*?(@.type() != "string")'::jsonpath)))),
    CONSTRAINT schedules_max_attempts_is_valid CHECK (((max_attempts >= 1) AND (max_attempts <= 100))),
    CONSTRAINT schedules_name_is_valid CHECK ((name ~ '^[a-z0-9][a-z0-9_-]{0,31}$'::text)),
    CONSTRAINT schedules_priority_is_valid CHECK (((priority >= 0) AND (priority <= 9))),
    CONSTRAINT schedules_repository_fits CHECK ((length(repository) <= 256)),
    CONSTRAINT schedules_times_are_valid CHECK (((next_time >= '0001-01-01 00:00:00+00'::timestamp with time zone) AND (next_time < '10000-01-01 00:00:00+00'::timestamp with time zone) AND (due_time >= next_time)))
);

CREATE VIEW baton.stage_overview AS
 SELECT s.pipeline,
    s.name AS stage,
    s."position",
    s.waiting_status,
    s.processing_status,
    s.done_status,
    (s.paused OR p.paused) AS paused,
    ( SELECT count(*) AS count
           FROM baton.runs r
          WHERE ((r.pipeline = s.pipeline) AND (r.stage = s.name) AND (r.state = 'PENDING'::baton.run_state))) AS pending_count,
    ( SELECT count(*) AS count
           FROM baton.runs r
          WHERE ((r.pipeline = s.pipeline) AND (r.stage = s.name) AND (r.state = 'PENDING'::baton.run_state) AND (r.claimable_time <= statement_timestamp()))) AS claimable_count,
    ( SELECT count(*) AS count
           FROM baton.runs r
          WHERE ((r.pipeline = s.pipeline) AND (r.stage = s.name) AND (r.state = 'ACTIVE'::baton.run_state))) AS active_count,
    (statement_timestamp() - ( SELECT min(r.claimable_time) AS min
           FROM baton.runs r
          WHERE ((r.pipeline = s.pipeline) AND (r.stage = s.name) AND (r.state = 'PENDING'::baton.run_state) AND (r.claimable_time <= statement_timestamp())))) AS oldest_waiting_for,
    NULLIF(s.max_active, 0) AS max_active,
    NULLIF(s.max_active_per_key, 0) AS max_active_per_key,
    s.max_attempts,
    ((s.lease_ms)::double precision * '00:00:00.001'::interval) AS lease_duration,
    ((NULLIF(s.timeout_ms, 0))::double precision * '00:00:00.001'::interval) AS timeout
   FROM (baton.stages s
     JOIN baton.pipelines p ON ((p.name = s.pipeline)));

COMMENT ON VIEW baton.stage_overview IS 'Every stage of every pipeline, and the open runs in it. Read only.';

COMMENT ON COLUMN baton.stage_overview."position" IS 'The place of the stage in its pipeline, from 0.';

COMMENT ON COLUMN baton.stage_overview.waiting_status IS 'The status in which runs wait for the stage.';

COMMENT ON COLUMN baton.stage_overview.processing_status IS 'The status that a claim gives them.';

COMMENT ON COLUMN baton.stage_overview.done_status IS 'The status of those that have passed the stage.';

COMMENT ON COLUMN baton.stage_overview.paused IS 'The stage gives out no runs: it or its pipeline is paused.';

COMMENT ON COLUMN baton.stage_overview.pending_count IS 'Runs that wait for the stage, those that are not claimable yet included.';

COMMENT ON COLUMN baton.stage_overview.claimable_count IS 'Runs that wait and can be claimed.';

COMMENT ON COLUMN baton.stage_overview.active_count IS 'Runs that are claimed for the stage.';

COMMENT ON COLUMN baton.stage_overview.oldest_waiting_for IS 'For how long the run that has waited longest can be claimed; null when none can be.';

COMMENT ON COLUMN baton.stage_overview.max_active IS 'How many runs may be ACTIVE at once; null for any number.';

COMMENT ON COLUMN baton.stage_overview.max_active_per_key IS 'The same for runs with the same concurrency_key, or repository; null for any number.';

COMMENT ON COLUMN baton.stage_overview.max_attempts IS 'Claims after which the stage gives up on a run that does not have a number of its own.';

COMMENT ON COLUMN baton.stage_overview.lease_duration IS 'How long a lease lasts unless its claim says otherwise.';

COMMENT ON COLUMN baton.stage_overview.timeout IS 'How long one attempt may take; null for any time.';

ALTER TABLE ONLY baton.run_events ATTACH PARTITION baton.run_events_default DEFAULT;

ALTER TABLE ONLY baton.run_events ATTACH PARTITION baton.run_events_p0 FOR VALUES FROM ('0') TO ('1000000');

ALTER TABLE ONLY baton.log_holes
    ADD CONSTRAINT log_holes_pkey PRIMARY KEY (after_revision);

ALTER TABLE ONLY baton.log
    ADD CONSTRAINT log_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY baton.pipeline_statuses
    ADD CONSTRAINT pipeline_statuses_pkey PRIMARY KEY (pipeline, status);

ALTER TABLE ONLY baton.pipelines
    ADD CONSTRAINT pipelines_pkey PRIMARY KEY (name);

ALTER TABLE ONLY baton.run_events
    ADD CONSTRAINT run_events_pkey PRIMARY KEY (revision);

ALTER TABLE ONLY baton.run_events_default
    ADD CONSTRAINT run_events_default_pkey PRIMARY KEY (revision);

ALTER TABLE ONLY baton.run_events_p0
    ADD CONSTRAINT run_events_p0_pkey PRIMARY KEY (revision);

ALTER TABLE ONLY baton.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY baton.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (pipeline, name);

ALTER TABLE ONLY baton.schedules
    ADD CONSTRAINT schedules_position_key UNIQUE (pipeline, "position");

ALTER TABLE ONLY baton.stages
    ADD CONSTRAINT stages_pkey PRIMARY KEY (pipeline, name);

ALTER TABLE ONLY baton.stages
    ADD CONSTRAINT stages_position_key UNIQUE (pipeline, "position");

CREATE INDEX run_events_run_idx ON ONLY baton.run_events USING btree (run_id, version);

CREATE INDEX run_events_default_run_id_version_idx ON baton.run_events_default USING btree (run_id, version);

CREATE INDEX run_events_p0_run_id_version_idx ON baton.run_events_p0 USING btree (run_id, version);

CREATE INDEX runs_active_idx ON baton.runs USING btree (pipeline, stage) WHERE (state = 'ACTIVE'::baton.run_state);

CREATE INDEX runs_claim_idx ON baton.runs USING btree (pipeline, stage, priority DESC, claimable_time, id) WHERE (state = 'PENDING'::baton.run_state);

CREATE INDEX runs_claim_request_idx ON baton.runs USING btree (claim_request_id) WHERE ((claim_request_id IS NOT NULL) AND (lease_id IS NOT NULL));

CREATE INDEX runs_end_idx ON baton.runs USING btree (end_time) WHERE (end_time IS NOT NULL);

CREATE INDEX runs_lease_idx ON baton.runs USING btree (lease_expire_time) WHERE (lease_id IS NOT NULL);

CREATE UNIQUE INDEX runs_request_id_key ON baton.runs USING btree (request_id) WHERE (request_id IS NOT NULL);

CREATE INDEX schedules_due_idx ON baton.schedules USING btree (due_time);

ALTER INDEX baton.run_events_pkey ATTACH PARTITION baton.run_events_default_pkey;

ALTER INDEX baton.run_events_run_idx ATTACH PARTITION baton.run_events_default_run_id_version_idx;

ALTER INDEX baton.run_events_pkey ATTACH PARTITION baton.run_events_p0_pkey;

ALTER INDEX baton.run_events_run_idx ATTACH PARTITION baton.run_events_p0_run_id_version_idx;

CREATE TRIGGER runs_admit_created AFTER INSERT ON baton.runs REFERENCING NEW TABLE AS new_runs FOR EACH STATEMENT WHEN ((current_setting('baton.append'::text, true) = ANY (ARRAY['statement'::text, 'row'::text]))) EXECUTE FUNCTION baton.runs_admit_created();

CREATE TRIGGER runs_admit_updated AFTER UPDATE ON baton.runs REFERENCING OLD TABLE AS old_runs NEW TABLE AS new_runs FOR EACH STATEMENT WHEN ((current_setting('baton.append'::text, true) = ANY (ARRAY['statement'::text, 'row'::text]))) EXECUTE FUNCTION baton.runs_admit_updated();

CREATE TRIGGER runs_append_created AFTER INSERT ON baton.runs REFERENCING NEW TABLE AS new_runs FOR EACH STATEMENT WHEN ((current_setting('baton.append'::text, true) = 'statement'::text)) EXECUTE FUNCTION baton.runs_append_created();

CREATE CONSTRAINT TRIGGER runs_append_event_on_insert AFTER INSERT ON baton.runs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ((current_setting('baton.append'::text, true) IS DISTINCT FROM 'statement'::text)) EXECUTE FUNCTION baton.runs_append_event();

CREATE CONSTRAINT TRIGGER runs_append_event_on_update AFTER UPDATE ON baton.runs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (((new.version <> old.version) AND (current_setting('baton.append'::text, true) IS DISTINCT FROM 'statement'::text))) EXECUTE FUNCTION baton.runs_append_event();

CREATE TRIGGER runs_append_updated AFTER UPDATE ON baton.runs REFERENCING OLD TABLE AS old_runs NEW TABLE AS new_runs FOR EACH STATEMENT WHEN ((current_setting('baton.append'::text, true) = 'statement'::text)) EXECUTE FUNCTION baton.runs_append_updated();

CREATE TRIGGER runs_are_not_truncated BEFORE TRUNCATE ON baton.runs FOR EACH STATEMENT EXECUTE FUNCTION baton.runs_refuse_truncate();

CREATE TRIGGER runs_before_insert BEFORE INSERT ON baton.runs FOR EACH ROW WHEN (((new.version IS NULL) OR (COALESCE(current_setting('baton.append'::text, true), ''::text) <> ALL (ARRAY['statement'::text, 'row'::text])))) EXECUTE FUNCTION baton.runs_before_write();

CREATE TRIGGER runs_before_update BEFORE UPDATE OF stage, status, state, output, error_code, error_message, priority, concurrency_key, attempt, max_attempts, attempts_allowed, worker_id, claim_request_id, attempt_time, ended_stage, lease_number, lease_id, lease_ms, schedule_time, claimable_time, cancel_requested, progress, status_message, checkpoint, version, update_time, start_time, end_time, request_hash ON baton.runs FOR EACH ROW WHEN ((NOT ((new.version = (old.version + 1)) AND (COALESCE(current_setting('baton.append'::text, true), ''::text) = ANY (ARRAY['statement'::text, 'row'::text]))))) EXECUTE FUNCTION baton.runs_before_write();

CREATE TRIGGER runs_identity_is_fixed BEFORE UPDATE OF id, pipeline, repository, labels, input, create_time, request_id, trace_parent ON baton.runs FOR EACH ROW WHEN (((((((((old.id IS DISTINCT FROM new.id) OR (old.pipeline IS DISTINCT FROM new.pipeline)) OR (old.repository IS DISTINCT FROM new.repository)) OR (old.labels IS DISTINCT FROM new.labels)) OR (old.input IS DISTINCT FROM new.input)) OR (old.create_time IS DISTINCT FROM new.create_time)) OR (old.request_id IS DISTINCT FROM new.request_id)) OR (old.trace_parent IS DISTINCT FROM new.trace_parent))) EXECUTE FUNCTION baton.runs_refuse_change();

CREATE TRIGGER runs_keep_request BEFORE INSERT ON baton.runs FOR EACH ROW WHEN ((new.request_id IS NOT NULL)) EXECUTE FUNCTION baton.runs_keep_request();

CREATE TRIGGER runs_open_is_kept BEFORE DELETE ON baton.runs FOR EACH ROW WHEN ((old.state = ANY (ARRAY['PENDING'::baton.run_state, 'ACTIVE'::baton.run_state]))) EXECUTE FUNCTION baton.runs_refuse_delete();

CREATE TRIGGER runs_status_time_on_insert BEFORE INSERT ON baton.runs FOR EACH ROW WHEN ((new.status_time IS DISTINCT FROM new.create_time)) EXECUTE FUNCTION baton.runs_keep_status_time();

CREATE TRIGGER runs_status_time_on_update BEFORE UPDATE ON baton.runs FOR EACH ROW WHEN ((((new.status IS DISTINCT FROM old.status) <> (new.status_time IS DISTINCT FROM old.status_time)) OR ((new.status IS DISTINCT FROM old.status) AND (COALESCE(current_setting('baton.append'::text, true), ''::text) <> ALL (ARRAY['statement'::text, 'row'::text]))))) EXECUTE FUNCTION baton.runs_keep_status_time();

ALTER TABLE ONLY baton.pipeline_statuses
    ADD CONSTRAINT pipeline_statuses_pipeline_fkey FOREIGN KEY (pipeline) REFERENCES baton.pipelines(name) ON DELETE CASCADE;

ALTER TABLE ONLY baton.schedules
    ADD CONSTRAINT schedules_pipeline_fkey FOREIGN KEY (pipeline) REFERENCES baton.pipelines(name) ON DELETE CASCADE;

ALTER TABLE ONLY baton.stages
    ADD CONSTRAINT stages_pipeline_fkey FOREIGN KEY (pipeline) REFERENCES baton.pipelines(name) ON DELETE CASCADE;
