/** Arbitrary values made from JSON Schemas, for the fuzz test. */
import fc from 'fast-check';

/** Ids that exist and values that are right, so that much of the input gets past the front door. */
export interface Names {
  known: string[];
  byField: Record<string, unknown[]>;
}

export interface JsonSchema {
  type?: string | string[];
  properties?: Record<string, JsonSchema>;
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  enum?: unknown[];
  const?: unknown;
  additionalProperties?: JsonSchema | boolean;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  $ref?: string;
  $defs?: Record<string, JsonSchema>;
}

const junk = fc.oneof(
  fc.jsonValue(),
  fc.constantFrom<unknown>(null, -1, 0, 2 ** 53, -(2 ** 63), 1e308, '', '\u0000', '../..', [], {}, true),
  fc.string({ unit: 'binary' }),
);

/** Values that mostly fit; now and then, at any depth, one that does not. */
export function anyValue(schema: JsonSchema, names: Names, defs = schema.$defs ?? {}): fc.Arbitrary<unknown> {
  const fitting = fittingValue(schema, names, defs);
  return fc.oneof({ weight: 15, arbitrary: fitting }, { weight: 1, arbitrary: junk });
}

function fittingValue(
  schema: JsonSchema,
  names: Names,
  defs: Record<string, JsonSchema>,
): fc.Arbitrary<unknown> {
  if (schema.$ref) return anyValue(defs[schema.$ref.split('/').at(-1) ?? ''] ?? {}, names, defs);
  if (schema.const !== undefined) return fc.constant(schema.const);
  if (schema.enum) return fc.constantFrom(...schema.enum);
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return fc.oneof(...options.map((option) => anyValue(option, names, defs)));
  switch (Array.isArray(schema.type) ? schema.type[0] : schema.type) {
    case 'object':
      return objectOf(schema, names, defs);
    case 'array':
      return fc.array(anyValue(schema.items ?? {}, names, defs), { maxLength: 4 });
    case 'integer':
    case 'number':
      return numberOf(schema);
    case 'boolean':
      return fc.boolean();
    case 'string':
      return fc.oneof(fc.constantFrom(...names.known), fc.string());
    case 'null':
      return fc.constant(null);
    default:
      return junk;
  }
}

/** Small numbers within the bounds; now and then what integers end at. */
function numberOf({ type, minimum = 0, maximum, exclusiveMinimum }: JsonSchema): fc.Arbitrary<unknown> {
  const min = exclusiveMinimum === undefined ? Math.max(minimum, -1) : exclusiveMinimum + 1e-3;
  const max = Math.max(Math.min(maximum ?? 9, 9), min);
  const integer = fc.integer({ min: Math.ceil(min), max: Math.max(Math.floor(max), Math.ceil(min)) });
  const fitting = type === 'integer' ? integer : fc.oneof(fc.double({ min, max, noNaN: true }), integer);
  return fc.oneof(
    { weight: 8, arbitrary: fitting },
    { weight: 1, arbitrary: fc.constantFrom(2 ** 31, 2 ** 53 - 1) },
  );
}

/** An object whose required fields are mostly there. */
export function objectOf(
  schema: JsonSchema,
  names: Names,
  defs: Record<string, JsonSchema>,
): fc.Arbitrary<unknown> {
  const fields = Object.entries(schema.properties ?? {}).map(([key, field]) => {
    const known = names.byField[key];
    const arbitrary = anyValue(field, names, defs);
    return [
      key,
      known ? fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...known) }, arbitrary) : arbitrary,
    ] as const;
  });
  const required = fields.map(([key]) => key).filter(() => Math.random() < 0.8);
  const record = fc.record(Object.fromEntries(fields), { requiredKeys: required });
  if (typeof schema.additionalProperties !== 'object') return record;
  const extra = fc.dictionary(fc.string(), anyValue(schema.additionalProperties, names, defs), {
    maxKeys: 3,
  });
  return fc.tuple(record, extra).map(([a, b]) => ({ ...a, ...b }));
}
