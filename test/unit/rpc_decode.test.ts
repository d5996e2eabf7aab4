import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  create,
  fromBinary,
  fromJsonString,
  toBinary,
  toJsonString,
  type DescMessage,
  type Message,
} from '@bufbuild/protobuf';
import { fc } from '../support/seed.js';
import {
  BatchCreateRunsRequestSchema,
  CreateRunRequestSchema,
  JobService,
  ListRunsRequestSchema,
} from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import { BatonError } from '../../src/base/errors.js';
import { decode, type Format } from '../../src/rpc/decode/decode.js';
import { planOf, type MessagePlan } from '../../src/rpc/decode/plan.js';
import { encode } from '../../src/rpc/encode.js';
import { anyMessage } from '../support/any_message.js';

const RUNS = { numRuns: 60 };
const requests = [...JobService.methods, ...PipelineService.methods].map(({ input }) => input);

/** What the library makes of a JSON text, or that it refuses it: a Value has no NaN there. */
function orRefused(make: () => Message): Message | 'refused' {
  try {
    return make();
  } catch {
    return 'refused';
  }
}

function refusal(schema: DescMessage, bytes: Buffer | string, format: Format): BatonError {
  try {
    decode(schema, Buffer.from(bytes), format);
  } catch (error) {
    assert.ok(error instanceof BatonError, String(error));
    assert.equal(error.reason, 'INVALID_ARGUMENT');
    return error;
  }
  throw new Error('the bytes were expected to be refused');
}

const fieldsOf = (error: BatonError): string[] => error.violations.map(({ field }) => field);

void describe('a request in binary protobuf', () => {
  for (const schema of requests) {
    void test(`${schema.name} is the message that the library reads, in pieces too`, () => {
      fc.assert(
        fc.property(anyMessage(schema), anyMessage(schema), (one, other) => {
          const bytes = Buffer.concat([
            encode(schema, create(schema, one)),
            encode(schema, create(schema, other)),
          ]);
          const expected = orRefused(() => fromBinary(schema, bytes, { readUnknownFields: false }));
          assert.deepEqual(decode(schema, bytes, 'binary'), expected);
        }),
        RUNS,
      );
    });
  }

  void test('has fields that nobody knows, and these are dropped', () => {
    const unknown = Buffer.from([
      0xf8, 0x01, 0x05, 0xfa, 0x01, 1, 7, 0xf9, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 0xfb, 0x01, 0x08, 1, 0xfc, 0x01,
      0xfd, 0x01, 1, 2, 3, 4,
    ]);
    const known = Buffer.from(
      toBinary(CreateRunRequestSchema, create(CreateRunRequestSchema, { priority: 3 })),
    );
    const bytes = Buffer.concat([unknown, known, unknown]);
    assert.deepEqual(
      decode(CreateRunRequestSchema, bytes, 'binary'),
      create(CreateRunRequestSchema, { priority: 3 }),
    );
  });

  void test('that was damaged is refused or read, and nothing else', () => {
    fc.assert(
      fc.property(
        anyMessage(BatchCreateRunsRequestSchema),
        fc.infiniteStream(fc.nat()),
        fc.nat(6),
        (init, chance, edits) => {
          const bytes = encode(BatchCreateRunsRequestSchema, create(BatchCreateRunsRequestSchema, init));
          const next = (most: number): number => (chance.next().value as number) % most;
          for (let edit = 0; edit < edits && bytes.length > 0; edit += 1)
            bytes[next(bytes.length)] = next(256);
          const cut = bytes.subarray(0, bytes.length - next(3));
          try {
            decode(BatchCreateRunsRequestSchema, cut, 'binary');
          } catch (error) {
            assert.ok(error instanceof BatonError && error.reason === 'INVALID_ARGUMENT', String(error));
          }
        },
      ),
      { ...RUNS, numRuns: 1000 },
    );
  });

  void test('with a text that is not UTF-8 is refused', () => {
    assert.match(refusal(CreateRunRequestSchema, Buffer.from([0x12, 1, 0xff]), 'binary').message, /UTF-8/);
  });
});

void describe('a request in JSON', () => {
  for (const schema of requests) {
    void test(`${schema.name} is the message that the library reads`, () => {
      fc.assert(
        fc.property(anyMessage(schema), (init) => {
          const text = orRefusedText(() => toJsonString(schema, create(schema, init)));
          if (text === undefined) return;
          assert.deepEqual(decode(schema, Buffer.from(text), 'json'), fromJsonString(schema, text));
        }),
        RUNS,
      );
    });
  }

  const refused = (text: string, schema: DescMessage = CreateRunRequestSchema): string =>
    refusal(schema, text, 'json').message;

  void test('that names a member twice is refused: what the first asked for would not be heard', () => {
    for (const text of [
      '{"repository":"a","repository":"b"}',
      '{"labels":{"a":"1","a":"1"}}',
      '{"input":{"a":[{"b":1,"\\u0062":2}]}}',
    ])
      assert.match(refused(text), /same name/, text);
    assert.match(refused('{"filter":{"labels":{"a":"b"}},"filter":{}}', ListRunsRequestSchema), /same name/);
  });

  void test('that is no JSON, no UTF-8, or of another type is refused with words', () => {
    assert.match(refused('{"input":'), /JSON/);
    assert.match(
      refusal(CreateRunRequestSchema, Buffer.from('{"repository":"\xff"}', 'latin1'), 'json').message,
      /UTF-8/,
    );
    assert.match(refused('{"input":[]}'), /input/);
    assert.match(refused('{"labels":{"a":1}}'), /labels/);
    assert.match(refused('{"labels":[]}'), /labels/);
    assert.match(refused('{"constructor":{}}'), /constructor/);
    assert.match(refused('{"__proto__":{}}'), /__proto__/);
    assert.match(refused('[]'), /CreateRunRequest/);
  });
});

function orRefusedText(make: () => string): string | undefined {
  try {
    return make();
  } catch {
    return undefined;
  }
}

void describe('keys of maps and objects', () => {
  const names = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', '', 'a.b', '\u0000', 'é', '𝄞'];
  const pairs = names.map((name) => [name, 'x'] as const);
  const labels = Object.fromEntries(pairs);
  const input = Object.fromEntries([...pairs, ['deep', [Object.fromEntries(pairs)]]] as [string, unknown][]);

  const check = (bytes: Buffer, format: Format): void => {
    const read = decode(CreateRunRequestSchema, bytes, format) as Message & { labels: object; input: object };
    assert.deepEqual(Object.entries(read.labels), Object.entries(labels));
    assert.equal(JSON.stringify(read.input), JSON.stringify(input));
    assert.equal(Object.getPrototypeOf(read.labels), Object.prototype);
  };

  void test('are kept exactly by both forms', () => {
    check(Buffer.from(JSON.stringify({ labels, input })), 'json');
    // The library would lose one of them.
    const message = create(CreateRunRequestSchema);
    Object.assign(message, { labels, input });
    check(encode(CreateRunRequestSchema, message), 'binary');
  });
});

void describe('what a request may hold', () => {
  const run = (values: number): object => ({ input: { a: Array.from({ length: values - 1 }, () => 0) } });
  const forms = (schema: DescMessage, json: object): [Format, Buffer][] => [
    ['json', Buffer.from(JSON.stringify(json))],
    ['binary', encode(schema, fromJsonString(schema, JSON.stringify(json)))],
  ];

  void test('65,536 values in an object', () => {
    for (const [format, bytes] of forms(CreateRunRequestSchema, run(65_536)))
      decode(CreateRunRequestSchema, bytes, format);
    for (const [format, bytes] of forms(CreateRunRequestSchema, run(65_537))) {
      const error = refusal(CreateRunRequestSchema, bytes, format);
      assert.equal(error.message, 'input: must hold at most 65536 values, has 65537', format);
    }
  });

  void test('250,000 values in all, however they are written', () => {
    const schema = BatchCreateRunsRequestSchema;
    const most = Array.from({ length: 4 }, () => run(62_400));
    for (const [format, bytes] of forms(schema, { requests: most })) decode(schema, bytes, format);
    for (const [format, bytes] of forms(schema, { requests: [...most, run(500)] }))
      assert.match(refusal(schema, bytes, format).message, /at most 250000 values/, format);
  });

  void test('in each list and map as many as its field says, and all that have more are named', () => {
    const many = (count: number): string[] => Array.from({ length: count }, (_, index) => `v${index}`);
    const labels = Object.fromEntries(many(33).map((name) => [name, '']));
    const filter = {
      runIds: many(101),
      stages: many(100),
      states: Array.from({ length: 101 }, () => 1),
      labels,
    };
    for (const [format, bytes] of forms(ListRunsRequestSchema, { filter })) {
      const fields = fieldsOf(refusal(ListRunsRequestSchema, bytes, format));
      assert.deepEqual(fields, ['filter.run_ids', 'filter.states', 'filter.labels'], format);
    }
    for (const [format, bytes] of forms(BatchCreateRunsRequestSchema, { requests: [{}, { labels }] }))
      assert.deepEqual(fieldsOf(refusal(BatchCreateRunsRequestSchema, bytes, format)), [
        'requests[1].labels',
      ]);
    const runs = many(1001).map(() => ({}));
    for (const [format, bytes] of forms(BatchCreateRunsRequestSchema, { requests: runs })) {
      const error = refusal(BatchCreateRunsRequestSchema, bytes, format);
      assert.equal(error.message, 'requests: must have at most 1000 items, has 1001');
    }
  });

  void test('objects inside each other, but not without end', () => {
    const deep = (levels: number): string => '{"a":'.repeat(levels) + '1' + '}'.repeat(levels);
    decode(CreateRunRequestSchema, Buffer.from(`{"input":${deep(30)}}`), 'json');
    assert.match(
      refusal(CreateRunRequestSchema, `{"input":${deep(200)}}`, 'json').message,
      /at most 30 deep/,
    );
    let value: Buffer = Buffer.from([0x20, 1]);
    const within = (field: number, bytes: Buffer): Buffer => {
      const length: number[] = [];
      for (let rest = bytes.length; ; rest >>>= 7) {
        length.push(rest > 127 ? (rest & 127) | 128 : rest);
        if (rest <= 127) break;
      }
      return Buffer.concat([Buffer.from([field * 8 + 2, ...length]), bytes]);
    };
    for (let level = 0; level < 2000; level += 1) value = within(6, within(1, value));
    const bytes = within(4, within(1, within(2, value)));
    assert.deepEqual(fieldsOf(refusal(CreateRunRequestSchema, bytes, 'binary')), ['input']);
  });

  void test('every message, list and map of a request has been planned for', () => {
    const seen = new Set<MessagePlan>();
    const visit = (plan: MessagePlan): void => {
      if (seen.has(plan)) return;
      seen.add(plan);
      for (const field of plan.fields) {
        assert.equal(field.limit > 0, field.isList || field.kind === 'map', field.name);
        if (field.message !== undefined) visit(field.message);
      }
    };
    for (const schema of requests) visit(planOf(schema));
    assert.ok(seen.size > requests.length);
  });
});
