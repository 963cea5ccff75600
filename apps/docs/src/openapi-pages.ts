/** The API reference: Markdown made from the OpenAPI document. */

type Json = string | number | boolean | null | undefined | Json[] | { [key: string]: Json };

export interface Schema {
  $ref?: string;
  title?: string;
  description?: string;
  type?: string | string[];
  format?: string;
  enum?: Json[];
  const?: Json;
  default?: Json;
  minimum?: number;
  maximum?: number;
  items?: Schema;
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  properties?: Record<string, Schema>;
  additionalProperties?: boolean | Schema;
  required?: string[];
}

type Content = Record<string, { schema?: Schema }>;

export interface Operation {
  tags?: string[];
  summary?: string;
  security?: object[];
  parameters?: { name: string; in: string; required?: boolean; schema?: Schema; description?: string }[];
  requestBody?: { content?: Content };
  responses?: Record<string, { description?: string; content?: Content }>;
}

export interface OpenApiDocument {
  paths?: Record<string, Record<string, Operation>>;
  components?: { schemas?: Record<string, Schema> };
}

interface Call {
  method: string;
  path: string;
  operation: Operation;
}

/** File names and Markdown: one page of calls per tag, and `schemas.md` with the messages that they name. */
export function apiPages({ paths = {}, components }: OpenApiDocument): Map<string, string> {
  const pages = new Map<string, Call[]>();
  for (const [path, calls] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(calls)) {
      const tag = operation.tags?.[0] ?? 'other';
      pages.set(tag, [...(pages.get(tag) ?? []), { method: method.toUpperCase(), path, operation }]);
    }
  }
  const rendered = [...pages].map(([tag, calls]): [string, string] => [
    `${tag.replaceAll(' ', '-')}.md`,
    page(`API: ${tag}`, [errorsOf(calls), ...calls.map(callSection)]),
  ]);
  const schemas = components?.schemas ?? {};
  const named = [...namesIn(paths, schemas)].sort().map((name) => schemaSection(name, schemas[name] ?? {}));
  return new Map([...rendered, ['schemas.md', page('API: messages', named)]]);
}

/** Names of the schemas that a value refers to, directly or by others. */
function namesIn(value: unknown, schemas: Record<string, Schema>, found = new Set<string>()): Set<string> {
  for (const [, name = ''] of JSON.stringify(value).matchAll(/"#\/components\/schemas\/([^"]+)"/g)) {
    if (found.has(name)) continue;
    found.add(name);
    namesIn(schemas[name], schemas, found);
  }
  return found;
}

function page(title: string, sections: string[]): string {
  return `---\noutline: 2\neditLink: false\n---\n\n# ${title}\n\n${sections.filter((part) => part !== '').join('\n\n')}\n`;
}

const ERRORS = /^[45]XX$/i;

/** Errors look alike on all calls of a page. */
function errorsOf(calls: Call[]): string {
  const answers = calls.flatMap(({ operation }) => Object.entries(operation.responses ?? {}));
  const [error] = new Set(
    answers.filter(([status]) => ERRORS.test(status)).map(([, { content }]) => contentOf(content)),
  );
  return error ? `Errors (4xx, 5xx) are ${error}.` : '';
}

function callSection({ method, path, operation }: Call): string {
  const { summary, security, parameters = [], requestBody, responses = {} } = operation;
  const rows = parameters.map(({ name, in: place, required, schema, description }) => [
    `\`${name}\``,
    place,
    typeOf(schema ?? {}),
    required ? 'yes' : '',
    fieldText({ ...schema, ...(description === undefined ? {} : { description }) }),
  ]);
  const answers = Object.entries(responses).filter(([status]) => !ERRORS.test(status));
  return [
    `## ${method} ${path}`,
    summary ? `${escapeText(summary)}.` : '',
    security?.length === 0 ? 'Needs no key.' : '',
    rows.length > 0 ? table(['parameter', 'in', 'type', 'required', ''], rows) : '',
    requestBody ? `Body: ${contentBlock(requestBody.content)}` : '',
    ...answers.map(
      ([status, { content }]) => `Answer ${status}: ${contentBlock(content) || 'nothing further.'}`,
    ),
  ]
    .filter((part) => part !== '')
    .join('\n\n');
}

/** Like {@link contentOf}, with the fields of an unnamed message in a table. */
function contentBlock(content: Content = {}): string {
  return Object.entries(content)
    .map(([type, { schema = {} }]) =>
      schema.properties ? `\`${type}\`\n\n${fieldTable(schema)}` : `${typeOf(schema)} as \`${type}\``,
    )
    .join('\n\nor ');
}

function contentOf(content: Content = {}): string {
  return Object.entries(content)
    .map(([type, { schema }]) => `${typeOf(schema ?? {})} as \`${type}\``)
    .join(', or ');
}

function schemaSection(name: string, schema: Schema): string {
  const { properties, description } = schema;
  return [
    `## ${name}`,
    description ? escapeText(description) : '',
    properties ? fieldTable(schema) : typeOf(schema),
  ]
    .filter((part) => part !== '')
    .join('\n\n');
}

function fieldTable({ properties = {}, required = [] }: Schema): string {
  const rows = Object.entries(properties).map(([field, value]) => [
    `\`${field}\``,
    typeOf(value),
    required.includes(field) ? 'yes' : '',
    fieldText(value),
  ]);
  return table(['field', 'type', 'required', ''], rows);
}

function fieldText({ description, default: preset, minimum, maximum }: Schema): string {
  const range = [
    minimum === undefined || Math.abs(minimum) >= Number.MAX_SAFE_INTEGER ? '' : `at least ${minimum}`,
    maximum === undefined || maximum >= Number.MAX_SAFE_INTEGER ? '' : `at most ${maximum}`,
  ].filter((part) => part !== '');
  return [
    ...(description ? [`${escapeText(description.replace(/\.$/, ''))}.`] : []),
    ...(range.length > 0 ? [`${range.join(', ')}.`] : []),
    ...(preset === undefined ? [] : [`Default \`${JSON.stringify(preset)}\`.`]),
  ].join(' ');
}

/** A type in words and links, for Markdown. */
function typeOf(schema: Schema): string {
  if (schema.$ref) {
    const name = schema.$ref.split('/').at(-1) ?? '';
    return `[${name}](schemas.md#${name.toLowerCase()})`;
  }
  const alternatives = schema.anyOf ?? schema.oneOf;
  if (alternatives) return [...new Set(alternatives.map(typeOf))].join(' or ');
  if (schema.allOf) return schema.allOf.map(typeOf).join(' and ');
  if (schema.const !== undefined) return `\`${JSON.stringify(schema.const)}\``;
  if (schema.enum) return schema.enum.map((value) => `\`${JSON.stringify(value)}\``).join(' or ');
  if (schema.items) return `list of ${typeOf(schema.items)}`;
  const fields = Object.entries(schema.properties ?? {});
  if (fields.length > 0) {
    const parts = fields.map(([name, value]) => `\`${name}\`: ${typeOf(value)}`);
    return `{ ${parts.join(', ')} }`;
  }
  const { additionalProperties: values } = schema;
  if (typeof values === 'object' && Object.keys(values).length > 0) return `map of ${typeOf(values)}`;
  const type = [schema.type ?? 'any'].flat().join(' or ');
  return schema.format ? `${type} (${schema.format})` : type;
}

function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.map((cell) => escapeCell(cell)).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

function escapeCell(text: string): string {
  return text.replaceAll('\n', ' ').replaceAll('|', '\\|');
}

/** Text of a schema is no HTML. */
function escapeText(text: string): string {
  return text.replaceAll('<', '&lt;').replaceAll('{{', '&#123;&#123;');
}
