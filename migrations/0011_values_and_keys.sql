-- Up Migration

-- create_run has the rules of CreateRun: no key __proto__, which libraries for JavaScript lose, and at most 65,536 values
-- in the input.
create or replace function baton.input_violation(input jsonb) returns text
  language plpgsql immutable strict parallel safe
  as $$
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
$$;

create or replace function baton.label_violations(labels jsonb) returns text[]
  language plpgsql immutable strict parallel safe
  as $$
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
$$;

-- Down Migration

create or replace function baton.input_violation(input jsonb) returns text
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

create or replace function baton.label_violations(labels jsonb) returns text[]
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
