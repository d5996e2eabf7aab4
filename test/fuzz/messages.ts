/**
 * Messages of any type from its descriptor: mostly what a client would send, with hostile values in between. Each is made
 * in both forms at once, so that binary and JSON carry the same.
 */
import {
  create,
  ScalarType,
  toBinary,
  toJson,
  type DescEnum,
  type DescField,
  type DescMessage,
} from '@bufbuild/protobuf';
import { PipelineSchema } from '../../gen/baton/v1/pipeline_pb.js';
import type { Prng } from '../support/log_prng.js';
import { plausibleInteger, plausiblePipeline, plausibleText, theme, type Theme } from './plausible.js';
import { joined, type Budget, type Sample } from './sample.js';
import { struct } from './structs.js';
import { DOUBLES, INTEGERS, JSON_NUMBERS, oddText, utf8 } from './values.js';
import { FENCE, type Vocabulary } from './vocabulary.js';
import { doubleField, lengthDelimited, tag, varint, varintField, WireType } from './wire.js';

/** A field of a message: records of the binary form, one member of the JSON object. */
type Part = Sample & { readonly key: string; readonly number: number };

/** Without these, most requests are refused before anything else about them is looked at. */
const REQUIRED = new Set([
  ...['id', 'run_id', 'lease_token', 'status', 'pipeline', 'stage', 'name', 'requests', 'leases', 'filter'],
]);
/** How often lists get many elements, and how many then, as far as there is room. */
const MANY = { chance: 0.1, counts: [20, 21, 100, 101, 1000, 1001, 10_000, 60_000] } as const;

export class MessageGenerator {
  #theme: Theme;

  /**
   * @param spice how often a value is hostile, from 0 to 1
   * @param fenced whether filters have to leave alone what is not the fuzzer's
   */
  constructor(
    private readonly prng: Prng,
    private readonly vocabulary: Vocabulary,
    private readonly budget: Budget,
    private readonly spice: number,
    private readonly fenced: boolean,
  ) {
    this.#theme = theme(prng, vocabulary);
  }

  message(desc: DescMessage): Sample {
    const { prng } = this;
    switch (desc.typeName) {
      case 'google.protobuf.Struct':
        return struct(prng, this.budget, this.spice);
      case 'google.protobuf.Timestamp':
        return this.#time(true);
      case 'google.protobuf.Duration':
        return this.#time(false);
      default:
    }
    // Each lease in a list is another one.
    if (desc.fields.some(({ name }) => name === 'lease_token')) this.#theme = theme(prng, this.vocabulary);
    const parts = desc.fields
      .filter(({ name }) => prng.chance(REQUIRED.has(name) ? 0.98 : 0.4))
      .map((field) => this.#part(field));
    if (desc.typeName === PipelineSchema.typeName && prng.chance(0.7)) return this.#pipeline();
    if (this.#isHostile(0.2)) parts.push(this.#oddPart(parts));
    if (this.fenced && desc.typeName === 'baton.v1.RunFilter') return this.#fencedBy(parts);
    return { ...joined(parts), ...asObject(parts) };
  }

  /** In JSON the fence takes the place of what is there under its name. */
  #fencedBy(parts: readonly Part[]): Sample {
    const fence = this.#fence();
    const others = parts.filter(({ number }) => number !== fence.number);
    return { ...joined([...parts, fence]), ...asObject([...others, fence]) };
  }

  #isHostile(factor = 1): boolean {
    return this.prng.chance(this.spice * factor);
  }

  /** A good definition, in which the last value of a field counts. */
  #pipeline(): Sample {
    const good = create(PipelineSchema, plausiblePipeline(this.prng, this.#theme));
    const base = JSON.stringify(toJson(PipelineSchema, good));
    const parts = this.#isHostile() ? [this.#part(this.prng.pick(PipelineSchema.fields))] : [];
    const all = joined(parts);
    const more = parts.map(({ key, json }) => `,${JSON.stringify(key)}:${json}`).join('');
    const wire = Buffer.concat([toBinary(PipelineSchema, good), all.wire]);
    return { wire, json: `${base.slice(0, -1)}${more}}`, wireOk: all.wireOk, jsonOk: parts.length === 0 };
  }

  #part(field: DescField): Part {
    // JSON takes both spellings of a name.
    const name = { key: this.prng.chance(0.7) ? field.jsonName : field.name, number: field.number };
    this.budget.left -= 4;
    switch (field.fieldKind) {
      case 'list': {
        const items = this.#items(field);
        const { json, ...all } = joined(items);
        return { ...all, ...name, json: `[${json}]` };
      }
      case 'map':
        return { ...this.#map(field.number), ...name };
      case 'message':
        return { ...this.#record(field.number, this.message(field.message)), ...name };
      case 'enum':
        return { ...this.#enum(field.number, field.enum), ...name };
      case 'scalar':
        return { ...this.#scalar(field.number, field.name, field.scalar), ...name };
    }
  }

  #items(field: DescField & { fieldKind: 'list' }): Sample[] {
    const item = (): Sample => {
      if (field.listKind === 'message') return this.#record(field.number, this.message(field.message));
      if (field.listKind === 'enum') return this.#enum(field.number, field.enum);
      return this.#scalar(field.number, field.name, field.scalar);
    };
    if (!this.#isHostile(MANY.chance)) return Array.from({ length: this.prng.between(1, 3) }, item);
    const one = item();
    const room = Math.floor(this.budget.left / Math.max(1, one.wire.length));
    const count = Math.max(0, Math.min(room, this.prng.pick(MANY.counts)));
    this.budget.left -= count * one.wire.length;
    return Array.from({ length: count }, () => one);
  }

  #record(number: number, { wire, ...rest }: Sample): Sample {
    return { ...rest, wire: lengthDelimited(number, wire) };
  }

  #enum(number: number, { values }: DescEnum): Sample {
    const known = this.prng.pick(values.slice(1));
    const ok = { wireOk: true, jsonOk: true };
    if (!this.#isHostile())
      return { ...ok, wire: varintField(number, BigInt(known.number)), json: `"${known.name}"` };
    const value = this.prng.pick(INTEGERS);
    const json = this.prng.pick([String(value), '"NO_SUCH"', '"running"', 'null', '1.5', '{}', '-1']);
    return { wireOk: true, jsonOk: false, wire: varintField(number, value), json };
  }

  #scalar(number: number, name: string, type: ScalarType): Sample {
    const { prng } = this;
    switch (type) {
      case ScalarType.STRING:
        return this.#text(number, this.#isHostile() ? oddText(prng, this.budget.left) : undefined, name);
      case ScalarType.BOOL:
        return { wire: varintField(number, 1n), json: 'true', wireOk: true, jsonOk: true };
      case ScalarType.DOUBLE:
        return this.#double(number);
      default: {
        if (!this.#isHostile()) return integer(number, plausibleInteger(name, prng));
        const sample = integer(number, prng.pick(INTEGERS));
        // Beyond the range of its type JSON does not take it; the binary form cuts it off.
        if (prng.chance(0.6)) return { ...sample, jsonOk: false };
        return { ...sample, json: prng.pick(JSON_NUMBERS), jsonOk: false };
      }
    }
  }

  #text(number: number, odd: string | undefined, name: string): Sample {
    const text = odd ?? plausibleText(name, this.prng, this.vocabulary, this.#theme);
    this.budget.left -= text.length;
    const ok = text.isWellFormed();
    return { wire: lengthDelimited(number, utf8(text)), json: JSON.stringify(text), wireOk: ok, jsonOk: ok };
  }

  #double(number: number): Sample {
    const value = this.#isHostile() ? this.prng.pick(DOUBLES) : this.prng.next();
    const spelled = Number.isFinite(value) ? String(value) : `"${value}"`;
    const isOdd = this.#isHostile(0.3);
    const json = isOdd ? this.prng.pick(JSON_NUMBERS) : spelled;
    return { wire: doubleField(number, value), json, wireOk: true, jsonOk: !isOdd };
  }

  /** Of texts to texts, as all maps of the contract are. */
  #map(number: number): Sample {
    const isLong = this.#isHostile(MANY.chance);
    const count = isLong ? Math.min(this.prng.pick(MANY.counts), Math.floor(this.budget.left / 16)) : 1;
    const pairs = Array.from({ length: Math.max(0, count) }, (_, index): [string, string] => {
      if (isLong) return [`key ${index}`, ''];
      const key = this.#isHostile() ? oddText(this.prng, this.budget.left) : FENCE.key;
      return [key, this.#isHostile() ? oddText(this.prng, this.budget.left) : FENCE.value];
    });
    this.budget.left -= 16 * pairs.length;
    return mapOf(number, pairs);
  }

  /** Seconds and nanos; a wait is never long where it is a good one. */
  #time(isTimestamp: boolean): Sample {
    const hostile = this.#isHostile();
    const nowSeconds = 1_800_000_000n;
    const seconds = hostile ? this.prng.pick(INTEGERS) : isTimestamp ? nowSeconds : 1n;
    const nanos = hostile && this.prng.chance(0.5) ? this.prng.pick(INTEGERS) : 0n;
    const wire = Buffer.concat([varintField(1, seconds), varintField(2, nanos)]);
    if (hostile) {
      const texts = [
        '"2026-02-30T00:00:00Z"',
        '"2026-01-01T24:00:00Z"',
        '"1s"',
        '"-1s"',
        '"1e3s"',
        '""',
        '1',
        '{}',
      ];
      const json = this.prng.pick([
        ...texts,
        `"${seconds}s"`,
        '"0001-01-01T00:00:00Z"',
        '"9999-12-31T23:59:59.9Z"',
      ]);
      return { wire, json, wireOk: true, jsonOk: false };
    }
    return { wire, json: isTimestamp ? '"2027-01-15T08:00:00Z"' : '"1s"', wireOk: true, jsonOk: true };
  }

  /** What no encoder writes: fields that are unknown, come twice or have another wire type. */
  #oddPart(parts: readonly Part[]): Part {
    const { prng } = this;
    const kind = prng.pick(['unknown', 'twice', 'other type', 'group'] as const);
    const [one] = parts;
    if (kind === 'twice' && one !== undefined) return one;
    const number = prng.pick(kind === 'other type' ? [1, 2, 3, 4, 5] : [99, 2047, 536_870_911]);
    const bytes = prng.pick([
      Buffer.concat([tag(number, WireType.Varint), varint(prng.pick(INTEGERS))]),
      Buffer.concat([tag(number, WireType.Bit32), Buffer.alloc(4)]),
      lengthDelimited(number, Buffer.alloc(prng.between(0, 40), 'x')),
    ]);
    const group = Buffer.concat([tag(number, WireType.StartGroup), bytes, tag(number, WireType.EndGroup)]);
    return {
      ...{ number, key: prng.pick(['no_such_field', '__proto__', 'toString', '@type']), json: '1' },
      ...{ wire: kind === 'group' ? group : bytes, wireOk: kind === 'unknown', jsonOk: false },
    };
  }

  /** Each of these alone keeps a filter away from runs that are not the fuzzer's: they lack it, whatever it says. */
  #fence(): Part {
    const { prng, vocabulary } = this;
    const labels = (key: string, value: string): Part => ({
      ...mapOf(7, [[key, value]]),
      key: 'labels',
      number: 7,
    });
    const list = (number: number, key: string, text: string): Part => {
      const json = JSON.stringify([text]);
      return { wire: lengthDelimited(number, utf8(text)), json, wireOk: true, jsonOk: true, key, number };
    };
    return prng.pick([
      labels(FENCE.key, FENCE.value),
      labels(prng.pick(['__proto__', 'constructor', 'toString', 'no such']), prng.pick(['x', ''])),
      list(1, 'runIds', prng.pick(vocabulary.runIds)),
      list(2, 'pipelines', prng.pick(vocabulary.pipelines)),
      list(4, 'statuses', 'no_such_status'),
      { ...this.#text(6, 'fuzz', 'repository'), key: 'repository', number: 6 },
    ]);
  }
}

/** An object of JSON, which must not have a field twice. */
function asObject(parts: readonly Part[]): Pick<Sample, 'json' | 'jsonOk'> {
  const json = `{${parts.map((part) => `${JSON.stringify(part.key)}:${part.json}`).join()}}`;
  const isUnique = new Set(parts.map(({ number }) => number)).size === parts.length;
  return { json, jsonOk: isUnique && parts.every(({ jsonOk }) => jsonOk) };
}

function integer(number: number, value: bigint): Sample {
  return { wire: varintField(number, value), json: String(value), wireOk: true, jsonOk: true };
}

function mapOf(number: number, pairs: readonly (readonly [string, string])[]): Sample {
  const wire = pairs.map(([key, value]) =>
    lengthDelimited(number, Buffer.concat([lengthDelimited(1, utf8(key)), lengthDelimited(2, utf8(value))])),
  );
  const json = pairs.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join();
  const ok = pairs.every(([key, value]) => key.isWellFormed() && value.isWellFormed());
  return { wire: Buffer.concat(wire), json: `{${json}}`, wireOk: ok, jsonOk: ok };
}
