import * as z from 'zod';
import { type Call, post } from './http.ts';
import { stringifyWithoutNulls } from './json.ts';
import { parseArgument } from './parse-argument.ts';

/**
 * A POST whose body is checked by the schema. Fields that are null or absent are not sent.
 *
 * @throws TypeError that names the field.
 */
export function postRequest<T extends z.ZodType>(
  path: string,
  schema: T,
  request: z.input<T>,
  extra: Omit<Call, 'method' | 'path' | 'body'> = {},
): Call {
  const wire = z.encode(schema, parseArgument(schema, request));
  return { ...post(path, null, extra), body: stringifyWithoutNulls(wire) };
}
