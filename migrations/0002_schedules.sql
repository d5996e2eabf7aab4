-- Up Migration

-- What creates runs by itself. The rows of a pipeline are replaced together with its definition, under the lock of its
-- row. A server that makes a tick locks the pipeline (FOR KEY SHARE) before the schedule, as the definition does.
create table baton.schedules (
  pipeline text not null,
  position integer not null,
  name text not null,
  cron text not null,
  time_zone text not null,
  -- What a run gets, under the rules of baton.runs, so that a tick never fails for them.
  repository text not null default '',
  labels jsonb not null default '{}',
  input jsonb,
  priority integer not null default 0,
  concurrency_key text not null default '',
  max_attempts integer,
  -- The tick that comes next. A server makes its run and sets the one after it in the same transaction.
  next_time timestamptz not null,
  -- When a server looks at it: next_time, or later after a failure.
  due_time timestamptz not null,
  constraint schedules_pkey primary key (pipeline, name),
  constraint schedules_position_key unique (pipeline, position),
  constraint schedules_pipeline_fkey foreign key (pipeline) references baton.pipelines (name) on delete cascade,
  constraint schedules_name_is_valid check (name ~ '^[a-z0-9][a-z0-9_-]{0,31}$'),
  constraint schedules_repository_fits check (pg_catalog.length(repository) <= 256),
  constraint schedules_labels_are_texts check (
    pg_catalog.jsonb_typeof(labels) = 'object' and not labels @? '$.* ? (@.type() != "string")'
  ),
  constraint schedules_input_is_an_object check (input is null or pg_catalog.jsonb_typeof(input) = 'object'),
  constraint schedules_priority_is_valid check (priority between 0 and 9),
  constraint schedules_max_attempts_is_valid check (max_attempts between 1 and 100),
  constraint schedules_times_are_valid check (
    next_time >= '0001-01-01 00:00:00+00' and next_time < '10000-01-01 00:00:00+00' and due_time >= next_time
  )
);

create index schedules_due_idx on baton.schedules (due_time);

-- Down Migration

drop table baton.schedules;
