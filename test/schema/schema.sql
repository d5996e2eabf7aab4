-- Made by pg_dump from the migrations; test/schema.test.ts compares it and says how to renew it.

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

CREATE FUNCTION baton.runs_append_event() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION baton.runs_before_write() RETURNS trigger
    LANGUAGE plpgsql
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

CREATE TABLE baton.log (
    singleton boolean DEFAULT true NOT NULL,
    epoch uuid DEFAULT gen_random_uuid() NOT NULL,
    oldest_revision bigint DEFAULT 1 NOT NULL,
    CONSTRAINT log_is_one_row CHECK (singleton)
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
);

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

ALTER TABLE ONLY baton.run_events ATTACH PARTITION baton.run_events_default DEFAULT;

ALTER TABLE ONLY baton.run_events ATTACH PARTITION baton.run_events_p0 FOR VALUES FROM ('0') TO ('1000000');

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

ALTER INDEX baton.run_events_pkey ATTACH PARTITION baton.run_events_default_pkey;

ALTER INDEX baton.run_events_run_idx ATTACH PARTITION baton.run_events_default_run_id_version_idx;

ALTER INDEX baton.run_events_pkey ATTACH PARTITION baton.run_events_p0_pkey;

ALTER INDEX baton.run_events_run_idx ATTACH PARTITION baton.run_events_p0_run_id_version_idx;

CREATE CONSTRAINT TRIGGER runs_append_event_on_insert AFTER INSERT ON baton.runs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION baton.runs_append_event();

CREATE CONSTRAINT TRIGGER runs_append_event_on_update AFTER UPDATE ON baton.runs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ((new.version <> old.version)) EXECUTE FUNCTION baton.runs_append_event();

CREATE TRIGGER runs_are_not_truncated BEFORE TRUNCATE ON baton.runs FOR EACH STATEMENT EXECUTE FUNCTION baton.runs_refuse_truncate();

CREATE TRIGGER runs_before_insert BEFORE INSERT ON baton.runs FOR EACH ROW EXECUTE FUNCTION baton.runs_before_write();

CREATE TRIGGER runs_before_update BEFORE UPDATE OF stage, status, state, output, error_code, error_message, priority, concurrency_key, attempt, max_attempts, attempts_allowed, worker_id, claim_request_id, attempt_time, ended_stage, lease_number, lease_id, lease_ms, schedule_time, claimable_time, cancel_requested, progress, status_message, checkpoint, version, update_time, start_time, end_time, request_hash ON baton.runs FOR EACH ROW EXECUTE FUNCTION baton.runs_before_write();

CREATE TRIGGER runs_identity_is_fixed BEFORE UPDATE OF id, pipeline, repository, labels, input, create_time, request_id, trace_parent ON baton.runs FOR EACH ROW WHEN (((((((((old.id IS DISTINCT FROM new.id) OR (old.pipeline IS DISTINCT FROM new.pipeline)) OR (old.repository IS DISTINCT FROM new.repository)) OR (old.labels IS DISTINCT FROM new.labels)) OR (old.input IS DISTINCT FROM new.input)) OR (old.create_time IS DISTINCT FROM new.create_time)) OR (old.request_id IS DISTINCT FROM new.request_id)) OR (old.trace_parent IS DISTINCT FROM new.trace_parent))) EXECUTE FUNCTION baton.runs_refuse_change();

CREATE TRIGGER runs_open_is_kept BEFORE DELETE ON baton.runs FOR EACH ROW WHEN ((old.state = ANY (ARRAY['PENDING'::baton.run_state, 'ACTIVE'::baton.run_state]))) EXECUTE FUNCTION baton.runs_refuse_delete();

ALTER TABLE ONLY baton.pipeline_statuses
    ADD CONSTRAINT pipeline_statuses_pipeline_fkey FOREIGN KEY (pipeline) REFERENCES baton.pipelines(name) ON DELETE CASCADE;

ALTER TABLE ONLY baton.stages
    ADD CONSTRAINT stages_pipeline_fkey FOREIGN KEY (pipeline) REFERENCES baton.pipelines(name) ON DELETE CASCADE;
