/** Checks what a caller passes, and names what is wrong with it in one line. */
import type * as z from 'zod';

const MAX_VALUE_LENGTH = 60;

/** Of a union's branches, that whose complaint lies deepest: the one the value was meant for. */
function deepest(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union') return issue;
  const inner = issue.errors.flatMap((issues) => issues.map(deepest));
  const [first] = inner.sort((a, b) => b.path.length - a.path.length);
  return first ? { ...first, path: [...issue.path, ...first.path] } : issue;
}

function shown(value: unknown): string {
  const text = typeof value === 'string' ? `"${value}"` : String(value);
  return text.length > MAX_VALUE_LENGTH ? `${text.slice(0, MAX_VALUE_LENGTH)}…` : text;
}

function describe(issue: z.core.$ZodIssue, argument: unknown, name: string | undefined): string {
  const { path, message } = deepest(issue);
  const steps = path.map((step) => (typeof step === 'number' ? `[${step}]` : `.${String(step)}`));
  const field = `${name ?? ''}${steps.join('')}`.replace(/^\./, '');
  const value = path.reduce<unknown>((at, step) => (at as Record<PropertyKey, unknown>)?.[step], argument);
  const got = typeof value === 'object' && value !== null ? '' : ` (got ${shown(value)})`;
  return `${field ? `${field}: ` : ''}${message}${got}`;
}

/**
 * What the schema makes of an argument.
 *
 * @param name of the argument itself, before the names of its fields
 * @throws TypeError that names each wrong field and its value; its cause is the ZodError.
 */
export function parseArgument<T extends z.ZodType>(schema: T, argument: unknown, name?: string): z.infer<T> {
  const result = schema.safeParse(argument);
  if (result.success) return result.data;
  const problems = result.error.issues.map((issue) => describe(issue, argument, name));
  throw new TypeError(problems.join('; '), { cause: result.error });
}
