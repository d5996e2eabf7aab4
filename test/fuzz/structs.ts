/** google.protobuf.Struct with whatever fits in, in both of its forms. */
import type { Prng } from '../support/log_prng.js';
import { DOUBLES, JSON_NUMBERS, oddText, utf8 } from './values.js';
import { doubleField, lengthDelimited, varintField } from './wire.js';
import { joined, type Budget, type Sample } from './sample.js';

const NULL: Sample = { wire: varintField(1, 0n), json: 'null', wireOk: true, jsonOk: true };

/** Fields of google.protobuf.Value. */
const VALUE = { null: 1, number: 2, string: 3, bool: 4, struct: 5, list: 6 } as const;

/** An object of a few values, seldom a hostile one. */
export function struct(prng: Prng, budget: Budget, spice: number): Sample {
  if (!prng.chance(spice)) return entries([['n', number(prng.between(0, 9))]]);
  if (prng.chance(0.2)) return deep(prng, budget);
  if (prng.chance(0.2)) return entries([[oddText(prng, 100), wide(prng, budget)]]);
  return object(prng, budget, 3);
}

function object(prng: Prng, budget: Budget, levels: number): Sample {
  const count = prng.between(0, 4);
  return entries(
    Array.from({ length: count }, (): [string, Sample] => [
      prng.chance(0.5)
        ? prng.pick(['a', 'b', '__proto__', 'constructor', 'toJSON'])
        : oddText(prng, budget.left),
      value(prng, budget, levels - 1),
    ]),
  );
}

function value(prng: Prng, budget: Budget, levels: number): Sample {
  budget.left -= 8;
  const kinds = ['null', 'number', 'odd number', 'text', 'bool', 'nothing', 'list', 'object'] as const;
  const kind = budget.left < 0 || levels <= 0 ? prng.pick(kinds.slice(0, 6)) : prng.pick(kinds);
  switch (kind) {
    case 'null':
      return NULL;
    case 'bool':
      return { ...NULL, wire: varintField(VALUE.bool, 1n), json: 'true' };
    case 'number':
      return number(prng.pick(DOUBLES));
    case 'odd number':
      return { ...number(prng.pick(DOUBLES)), json: prng.pick(JSON_NUMBERS), jsonOk: false };
    case 'text':
      return text(oddText(prng, Math.max(1, budget.left)));
    case 'nothing':
      // A Value of no kind is nothing in JSON.
      return { wire: Buffer.alloc(0), json: 'null', wireOk: true, jsonOk: true };
    case 'list':
      return list(Array.from({ length: prng.between(0, 4) }, () => value(prng, budget, levels - 1)));
    case 'object':
      return nested(object(prng, budget, levels - 1));
  }
}

function number(of: number): Sample {
  const json = Number.isFinite(of) ? String(of) : 'null';
  return { ...NULL, wire: doubleField(VALUE.number, of), json };
}

function text(of: string): Sample {
  const ok = of.isWellFormed();
  return { wire: lengthDelimited(VALUE.string, utf8(of)), json: JSON.stringify(of), wireOk: ok, jsonOk: ok };
}

function nested(of: Sample): Sample {
  return { ...of, wire: lengthDelimited(VALUE.struct, of.wire) };
}

function list(items: readonly Sample[]): Sample {
  const all = joined(items);
  const wire = Buffer.concat(items.map((item) => lengthDelimited(1, item.wire)));
  return { ...all, wire: lengthDelimited(VALUE.list, wire), json: `[${all.json}]` };
}

/** Keys may come twice: the binary form has the last one then, JSON is refused. */
function entries(of: readonly (readonly [string, Sample])[]): Sample {
  const all = joined(of.map(([, one]) => one));
  const wire = of.map(([key, one]) =>
    lengthDelimited(1, Buffer.concat([lengthDelimited(1, utf8(key)), lengthDelimited(2, one.wire)])),
  );
  const json = of.map(([key, one]) => `${JSON.stringify(key)}:${one.json}`).join();
  const isUnique = new Set(of.map(([key]) => key)).size === of.length;
  const areTexts = of.every(([key]) => key.isWellFormed());
  return {
    ...{ wire: Buffer.concat(wire), json: `{${json}}` },
    ...{ wireOk: all.wireOk && areTexts, jsonOk: all.jsonOk && areTexts && isUnique },
  };
}

function deep(prng: Prng, budget: Budget): Sample {
  const levels = Math.min(prng.pick([29, 30, 31, 40, 60, 130, 400, 5000]), Math.floor(budget.left / 12));
  let one = number(1);
  const inLists = prng.chance(0.5);
  for (let level = 0; level < levels; level += 1) one = inLists ? list([one]) : nested(entries([['a', one]]));
  // Beyond the depth that a message may have it is refused before anybody knows which field it is.
  const ok = levels < 30;
  return { ...entries([['deep', one]]), wireOk: ok, jsonOk: ok };
}

function wide(prng: Prng, budget: Budget): Sample {
  const unit = prng.pick([NULL, number(0), number(NaN), text(''), list([]), nested(entries([]))]);
  const most = Math.max(1, Math.floor(budget.left / (unit.wire.length + 2)));
  budget.left -= most;
  return list(Array.from({ length: Math.min(most, prng.pick([10, 1000, 30_000, 70_000])) }, () => unit));
}
