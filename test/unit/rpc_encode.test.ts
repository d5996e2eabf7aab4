import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { create, toBinary } from '@bufbuild/protobuf';
import { FloatValueSchema } from '@bufbuild/protobuf/wkt';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import { encode } from '../../src/rpc/encode.js';
import { anyMessage } from '../support/any_message.js';
import { fc } from '../support/seed.js';

void describe('a message in binary protobuf', () => {
  void test('holds every key of an object, whatever it is called', () => {
    const input = JSON.parse('{"__proto__": 1}') as { [name: string]: number };
    const { output } = JobService.method.getRun;
    const bytes = encode(output, create(output, { run: { input } }));
    assert.ok(bytes.includes('__proto__'), bytes.toString('latin1'));
  });

  void test('of a kind that the contract has nowhere is refused, each time', () => {
    for (const _ of [1, 2])
      assert.throws(
        () => encode(FloatValueSchema, create(FloatValueSchema, { value: 1 })),
        /cannot be encoded/,
      );
  });

  for (const method of [...JobService.methods, ...PipelineService.methods]) {
    for (const schema of [method.input, method.output]) {
      void test(`${schema.name} has the bytes that the library gives it`, () => {
        fc.assert(
          fc.property(anyMessage(schema), (init) => {
            const made = create(schema, init);
            assert.equal(
              Buffer.from(encode(schema, made)).toString('hex'),
              Buffer.from(toBinary(schema, made)).toString('hex'),
            );
          }),
          { numRuns: 60 },
        );
      });
    }
  }
});
