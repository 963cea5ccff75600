/**
 * The tolerant form of a schema. Our schemas refuse unknown fields, which is right for someone who builds a request;
 * a server reads requests of newer SDKs, which add fields, and drops what it does not know.
 */
import * as z from 'zod';

/** OpenAPI names of the tolerant schemas. Give it to a JSON Schema generator that documents what a server reads. */
export const wireRegistry = z.registry<z.GlobalMeta>();

const known = new WeakMap<z.core.$ZodType, z.core.$ZodType>();

type Def = Record<string, unknown>;

/** Rebuilds whatever schemas a definition holds; other values stay. */
function loosenValue(value: unknown): unknown {
  if (value instanceof z.core.$ZodType) return loosen(value);
  if (Array.isArray(value)) return value.map(loosenValue);
  return value;
}

function loosenShape(shape: z.core.$ZodShape): z.core.$ZodShape {
  return Object.fromEntries(Object.entries(shape).map(([key, field]) => [key, loosen(field)]));
}

function isStrict(def: z.core.$ZodObjectDef): boolean {
  return def.catchall?._zod.def.type === 'never';
}

function loosenDef(def: z.core.$ZodTypeDef): Def {
  if (def.type === 'object') {
    const object = def as z.core.$ZodObjectDef;
    const catchall = isStrict(object) ? undefined : object.catchall;
    return { ...object, shape: loosenShape(object.shape), catchall };
  }
  const parts = [
    'innerType',
    'element',
    'options',
    'items',
    'keyType',
    'valueType',
    'in',
    'out',
    'left',
    'right',
  ];
  return Object.fromEntries(
    Object.entries(def).map(([key, value]) => [key, parts.includes(key) ? loosenValue(value) : value]),
  );
}

function loosen(schema: z.core.$ZodType): z.core.$ZodType {
  const before = known.get(schema);
  if (before) return before;
  const tolerant = z.core.clone(schema, loosenDef(schema._zod.def) as never);
  known.set(schema, tolerant);
  const meta = z.globalRegistry.get(schema as z.ZodType);
  if (meta) wireRegistry.add(tolerant as z.ZodType, meta);
  return tolerant;
}

/**
 * The same schema with unknown fields dropped instead of refused, at every depth. Types, defaults and checks stay.
 *
 * @example
 * wire(OptimStepRequest).parse({ ...body, newer_field: 1 });
 */
export function wire<T extends z.core.$ZodType>(schema: T): T {
  return loosen(schema) as T;
}

function unrecognized(issues: readonly z.core.$ZodIssue[], base: PropertyKey[]): string[] {
  return issues.flatMap((issue) => {
    const path = [...base, ...issue.path];
    if (issue.code === 'unrecognized_keys')
      return issue.keys.map((key) => [...path, key].map(String).join('.'));
    if (issue.code === 'invalid_union') return issue.errors.flatMap((errors) => unrecognized(errors, path));
    return [];
  });
}

/** Paths of the fields that the strict schema does not know, for a log line. */
export function unknownFields(schema: z.ZodType, value: unknown): string[] {
  const result = schema.safeParse(value);
  return result.success ? [] : [...new Set(unrecognized(result.error.issues, []))];
}
