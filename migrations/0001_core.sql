-- Up Migration

create schema if not exists baton;

-- The phases and event kinds of baton.v1, spelled as their enum values end.
create type baton.run_state as enum ('PENDING', 'ACTIVE', 'SUCCEEDED', 'FAILED', 'CANCELED');
create type baton.event_type as enum (
  'CREATED', 'CLAIMED', 'UPDATED', 'STAGE_COMPLETED', 'SUCCEEDED', 'FAILED', 'CANCELED', 'CANCEL_REQUESTED',
  'RELEASED', 'RETRY_SCHEDULED', 'LEASE_EXPIRED', 'RETRIED'
);

-- A version 7 UUID (RFC 9562): 48 bits of milliseconds, then random. Servers make ids themselves; this is the default
-- for plain SQL, because PostgreSQL has uuidv7() from 18 on only. Bits 52 and 53 turn the version 4 of
-- gen_random_uuid() into 7.
create function baton.uuid_v7() returns uuid
  language sql volatile parallel safe
  as $$
    select pg_catalog.encode(
      pg_catalog.set_bit(pg_catalog.set_bit(
        overlay(pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
          placing substring(pg_catalog.int8send((extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint) from 3)
          from 1 for 6),
        52, 1), 53, 1),
      'hex')::uuid
  $$;

---------------------------------------------------------------------------------------------------- definitions

create table baton.pipelines (
  name text not null,
  description text not null default '',
  initial_status text not null,
  error_status text not null,
  canceled_status text not null,
  paused boolean not null default false,
  generation bigint not null default 1,
  create_time timestamptz not null default pg_catalog.clock_timestamp(),
  update_time timestamptz not null default pg_catalog.clock_timestamp(),
  constraint pipelines_pkey primary key (name),
  constraint pipelines_name_is_valid check (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$')
);

create table baton.stages (
  pipeline text not null,
  position integer not null,
  name text not null,
  waiting_status text not null,
  processing_status text not null,
  done_status text not null,
  lease_ms bigint not null,
  timeout_ms bigint not null,
  max_attempts integer not null,
  backoff_initial_ms bigint not null,
  backoff_multiplier double precision not null,
  backoff_max_ms bigint not null,
  backoff_jitter double precision not null,
  max_active integer not null,
  max_active_per_key integer not null,
  paused boolean not null default false,
  constraint stages_pkey primary key (pipeline, name),
  constraint stages_position_key unique (pipeline, position),
  constraint stages_pipeline_fkey foreign key (pipeline) references baton.pipelines (name) on delete cascade,
  constraint stages_numbers_are_valid check (
    position >= 0 and lease_ms > 0 and timeout_ms >= 0 and max_attempts > 0 and backoff_initial_ms >= 0
    and backoff_multiplier >= 1 and backoff_max_ms >= 0 and backoff_jitter between 0 and 1
    and max_active >= 0 and max_active_per_key >= 0
  )
);

-- What each status of a pipeline means. The rows are written together with the definition; src/run/pipeline.ts
-- says how they follow from it.
create table baton.pipeline_statuses (
  pipeline text not null,
  status text not null,
  stage text not null,
  state baton.run_state not null,
  constraint pipeline_statuses_pkey primary key (pipeline, status),
  constraint pipeline_statuses_pipeline_fkey foreign key (pipeline) references baton.pipelines (name) on delete cascade,
  constraint pipeline_statuses_stage_fits_state check ((stage <> '') = (state in ('PENDING', 'ACTIVE')))
);

---------------------------------------------------------------------------------------------------------- runs

create table baton.runs (
  id uuid not null default baton.uuid_v7(),
  pipeline text not null default 'ci',
  -- Derived from pipeline and status by runs_before_write, whoever writes.
  stage text not null,
  status text not null,
  state baton.run_state not null,
  repository text not null default '',
  labels jsonb not null default '{}',
  input jsonb,
  output jsonb,
  error_code text,
  error_message text,
  priority integer not null default 0,
  concurrency_key text not null default '',
  attempt integer not null default 0,
  -- As asked for at creation; null leaves it to each stage. attempts_allowed is the number in force.
  max_attempts integer,
  attempts_allowed integer not null,
  worker_id text not null default '',
  -- The request_id of the ClaimNext that took the run, so that a repeat after a lost reply is given the same claims.
  claim_request_id text,
  -- When the current attempt was claimed: a stage's timeout counts from here, however often the lease is extended.
  attempt_time timestamptz,
  -- The fence. lease_number only grows; lease_id makes a token of a restored or copied database worthless. Both are
  -- in the token. A lease is live while lease_id is set and lease_expire_time is ahead of the database's clock.
  lease_number bigint not null default 0,
  lease_id uuid,
  lease_ms bigint,
  lease_expire_time timestamptz,
  schedule_time timestamptz,
  -- When the run became, or will become, claimable in its present status: the order of claims after priority.
  claimable_time timestamptz not null,
  cancel_requested boolean not null default false,
  progress double precision not null default 0,
  status_message text not null default '',
  checkpoint jsonb,
  version bigint not null,
  create_time timestamptz not null,
  update_time timestamptz not null,
  start_time timestamptz,
  end_time timestamptz,
  -- The stage in which a run ended; a retry starts there unless it says otherwise.
  ended_stage text not null default '',
  request_id text,
  -- SHA-256 of what was asked for under request_id, to tell a repeat from a second use of the same id.
  request_hash bytea,
  trace_parent text not null default '',
  constraint runs_pkey primary key (id),
  constraint runs_id_is_uuid_v7 check (pg_catalog.get_byte(pg_catalog.uuid_send(id), 6) >> 4 = 7),
  constraint runs_repository_fits check (pg_catalog.length(repository) <= 256),
  constraint runs_labels_are_texts check (
    pg_catalog.jsonb_typeof(labels) = 'object' and not labels @? '$.* ? (@.type() != "string")'
  ),
  constraint runs_input_is_an_object check (input is null or pg_catalog.jsonb_typeof(input) = 'object'),
  constraint runs_output_is_an_object check (output is null or pg_catalog.jsonb_typeof(output) = 'object'),
  constraint runs_checkpoint_is_an_object check (checkpoint is null or pg_catalog.jsonb_typeof(checkpoint) = 'object'),
  -- What the API's timestamps can carry.
  constraint runs_schedule_time_is_valid check (
    schedule_time >= '0001-01-01 00:00:00+00' and schedule_time < '10000-01-01 00:00:00+00'
  ),
  constraint runs_priority_is_valid check (priority between 0 and 9),
  constraint runs_max_attempts_is_valid check (max_attempts between 1 and 100),
  constraint runs_attempt_is_valid check (attempt >= 0),
  constraint runs_progress_is_valid check (progress between 0 and 1),
  constraint runs_lease_is_whole check (
    (lease_id is null) = (lease_expire_time is null) and (lease_id is null or (state = 'ACTIVE' and lease_ms is not null and lease_ms > 0))
  )
);

-- The order of claims within a stage; also what a worker of plain SQL should filter and order by.
create index runs_claim_idx on baton.runs (pipeline, stage, priority desc, claimable_time, id) where state = 'PENDING';
-- Ended leases are found here; runs that plain SQL took have no lease and are not in it.
create index runs_lease_idx on baton.runs (lease_expire_time) where lease_id is not null;
-- Finished runs by age, for their removal.
create index runs_end_idx on baton.runs (end_time) where end_time is not null;
-- What is at work in a stage, for its limits.
create index runs_active_idx on baton.runs (pipeline, stage) where state = 'ACTIVE';
create index runs_claim_request_idx on baton.runs (claim_request_id) where claim_request_id is not null and lease_id is not null;
create unique index runs_request_id_key on baton.runs (request_id) where request_id is not null;

------------------------------------------------------------------------------------------------------ the log

-- Identity of this log. Resume tokens carry the epoch, so that a token of another database is recognised.
create table baton.log (
  singleton boolean not null default true,
  epoch uuid not null default pg_catalog.gen_random_uuid(),
  -- The oldest revision that the kept history may still hold.
  oldest_revision bigint not null default 1,
  constraint log_pkey primary key (singleton),
  constraint log_is_one_row check (singleton)
);
insert into baton.log default values;

-- CACHE 1: a session that hands out numbers from its own block would break the commit order.
create sequence baton.revision as bigint start 1 cache 1 no cycle;

-- One row per committed change of a run: the run as it was right after the change, but for its input, which never
-- changes and stays with the run. Partitioned by revision, so that old history is dropped without a DELETE.
create table baton.run_events (
  revision bigint not null,
  -- When the change was appended, under the log's lock: in the order of revisions, unlike the time of its statement.
  append_time timestamptz not null default pg_catalog.clock_timestamp(),
  type baton.event_type not null,
  previous_status text not null,
  previous_stage text not null,
  previous_state baton.run_state,
  run_id uuid not null,
  pipeline text not null,
  stage text not null,
  status text not null,
  state baton.run_state not null,
  repository text not null,
  labels jsonb not null,
  output jsonb,
  error_code text,
  error_message text,
  priority integer not null,
  concurrency_key text not null,
  attempt integer not null,
  attempts_allowed integer not null,
  worker_id text not null,
  -- The lease under which the change was made or which it ended, so that a repeated update can be recognised.
  lease_id uuid,
  lease_expire_time timestamptz,
  schedule_time timestamptz,
  cancel_requested boolean not null,
  progress double precision not null,
  status_message text not null,
  checkpoint jsonb,
  version bigint not null,
  create_time timestamptz not null,
  update_time timestamptz not null,
  start_time timestamptz,
  end_time timestamptz,
  request_id text,
  trace_parent text not null,
  constraint run_events_pkey primary key (revision)
) partition by range (revision);

create index run_events_run_idx on baton.run_events (run_id, version);

create table baton.run_events_p0 partition of baton.run_events for values from (0) to (1000000);
-- Catches what no partition was made for in time, so that no writer ever fails for want of one.
create table baton.run_events_default partition of baton.run_events default;

-- Derives what belongs to a run's status and counts its version, for the server's statements and for plain SQL alike.
-- The UPDATE trigger names every column but lease_expire_time: extending a lease alone is no change of the run.
create function baton.runs_before_write() returns trigger
  language plpgsql
  as $$
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
    if not exists (select from baton.pipelines p where p.name = new.pipeline) then
      raise exception using
        errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_pipeline_exists',
        message = pg_catalog.format('there is no pipeline %L', new.pipeline);
    end if;
    raise exception using
      errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_status_of_pipeline',
      message = pg_catalog.format('pipeline %L has no status %L', new.pipeline, new.status),
      hint = pg_catalog.format('its statuses are: %s', (
        select pg_catalog.string_agg(ps.status, ', ' order by ps.status)
        from baton.pipeline_statuses ps where ps.pipeline = new.pipeline));
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
  if new.stage <> old.stage then
    new.attempts_allowed := coalesce(new.max_attempts, meaning.max_attempts, old.attempts_allowed);
  end if;

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

create trigger runs_before_insert before insert on baton.runs
  for each row execute function baton.runs_before_write();

create trigger runs_before_update
  before update of stage, status, state, output, error_code, error_message, priority, concurrency_key, attempt,
    max_attempts, attempts_allowed, worker_id, claim_request_id, attempt_time, ended_stage, lease_number, lease_id, lease_ms, schedule_time, claimable_time,
    cancel_requested, progress, status_message, checkpoint, version, update_time, start_time, end_time, request_hash
  on baton.runs
  for each row execute function baton.runs_before_write();

-- What a run is about is fixed when it is created: watchers filter by it, and the log keeps the input with the run.
create function baton.runs_refuse_change() returns trigger
  language plpgsql
  as $$
begin
  raise exception using
    errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_identity_is_fixed',
    message = pg_catalog.format('run %s: id, pipeline, repository, labels, input, create_time, request_id and trace_parent never change', old.id);
end
$$;

create trigger runs_identity_is_fixed
  before update of id, pipeline, repository, labels, input, create_time, request_id, trace_parent on baton.runs
  for each row
  when ((old.id, old.pipeline, old.repository, old.labels, old.input, old.create_time, old.request_id, old.trace_parent)
    is distinct from
    (new.id, new.pipeline, new.repository, new.labels, new.input, new.create_time, new.request_id, new.trace_parent))
  execute function baton.runs_refuse_change();

create function baton.runs_refuse_delete() returns trigger
  language plpgsql
  as $$
begin
  raise exception using
    errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_open_is_kept',
    message = pg_catalog.format('run %s is not finished: cancel it before you delete it', old.id);
end
$$;

create trigger runs_open_is_kept before delete on baton.runs
  for each row when (old.state in ('PENDING', 'ACTIVE')) execute function baton.runs_refuse_delete();

create function baton.runs_refuse_truncate() returns trigger
  language plpgsql
  as $$
begin
  raise exception using
    errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_open_is_kept',
    message = 'runs cannot be truncated: open ones would vanish without an event';
end
$$;

create trigger runs_are_not_truncated before truncate on baton.runs
  for each statement execute function baton.runs_refuse_truncate();

-- Appends one change to the log. It runs as the last step before commit (the trigger is deferred), and the order of
-- the next two statements is the whole guarantee: the lock is held until the transaction is visible to others, so
-- whoever gets a later revision can see everything with an earlier one, and a reader that has seen revision R has
-- missed nothing below R. A transaction that wrote runs and idles has not come here yet and blocks nobody.
create function baton.runs_append_event() returns trigger
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

create constraint trigger runs_append_event_on_insert after insert on baton.runs
  deferrable initially deferred for each row execute function baton.runs_append_event();

create constraint trigger runs_append_event_on_update after update on baton.runs
  deferrable initially deferred for each row when (new.version <> old.version)
  execute function baton.runs_append_event();

---------------------------------------------------------------------------------------------- the ci pipeline

insert into baton.pipelines (name, description, initial_status, error_status, canceled_status)
values ('ci', 'The built-in pipeline: one worker initializes a run, another one runs it.', 'new', 'error', 'canceled');

insert into baton.stages (
  pipeline, position, name, waiting_status, processing_status, done_status, lease_ms, timeout_ms, max_attempts,
  backoff_initial_ms, backoff_multiplier, backoff_max_ms, backoff_jitter, max_active, max_active_per_key
) values
  ('ci', 0, 'initialize', 'new', 'initializing', 'initialized', 60000, 0, 3, 1000, 2, 300000, 0.2, 0, 0),
  ('ci', 1, 'run', 'initialized', 'running', 'success', 60000, 0, 3, 1000, 2, 300000, 0.2, 0, 0);

insert into baton.pipeline_statuses (pipeline, status, stage, state) values
  ('ci', 'new', 'initialize', 'PENDING'),
  ('ci', 'initializing', 'initialize', 'ACTIVE'),
  ('ci', 'initialized', 'run', 'PENDING'),
  ('ci', 'running', 'run', 'ACTIVE'),
  ('ci', 'success', '', 'SUCCEEDED'),
  ('ci', 'error', '', 'FAILED'),
  ('ci', 'canceled', '', 'CANCELED');

-- Down Migration

drop table baton.runs, baton.run_events, baton.log, baton.pipeline_statuses, baton.stages, baton.pipelines cascade;
drop sequence baton.revision;
drop function baton.runs_before_write(), baton.runs_append_event(), baton.runs_refuse_change(),
  baton.runs_refuse_delete(), baton.runs_refuse_truncate(), baton.uuid_v7();
drop type baton.run_state, baton.event_type;
