// The template engine prints and strips as JavaScript does; templates are written for Python. This rewrites a parsed
// template so that the places which show the difference call functions of ours:
//   {{ x }}, x | string       prints None and True as Python does
//   x.strip(chars), x | trim  strips the characters named, and Python's idea of whitespace
//   'text' + x                refuses what is no string, such as a list of content parts, where JavaScript would write garbage
import { pythonStr, pythonStrip, type RuntimeValue, type StripSides } from './python-strings.ts';

/** A node of the engine's syntax tree. */
interface Node {
  readonly type: string;
  readonly [field: string]: unknown;
}

// Names with a space: no template can use them.
const STR = 'python str';
const STRIP = 'python strip';
const CONCAT = 'python concat';

/** The functions that rewritten templates call, for the environment. */
export const PYTHON_FUNCTIONS: Readonly<Record<string, (...args: never[]) => string>> = {
  [STR]: ([value]: [RuntimeValue]) => pythonStr(value),
  [STRIP]: ([text]: [RuntimeValue], sides: StripSides, characters?: string) => {
    if (typeof text.value === 'string') return pythonStrip(text.value, sides, characters);
    throw new TypeError(`${sides}() of ${pythonStr(text) || 'an undefined value'}, which is no string`);
  },
  [CONCAT]: ([left]: [RuntimeValue], [right]: [RuntimeValue]) => {
    for (const { type, value } of [left, right]) {
      if (typeof value !== 'string')
        throw new TypeError(`a string and a value of type ${type} cannot be joined with +`);
    }
    return `${left.value}${right.value}`;
  },
};

/** A parsed template with the calls put in. */
export function withPythonSemantics(program: object): object {
  return rewrite(program) as object;
}

function rewrite(value: unknown, field?: string): unknown {
  if (Array.isArray(value)) {
    const items = value.map((item) => rewrite(item));
    return isBlock(field) ? items.map(printed) : items;
  }
  if (value instanceof Map) return new Map([...value].map(([key, item]) => [rewrite(key), rewrite(item)]));
  if (!isNode(value)) return value;
  const fields = Object.entries(value).map(([name, child]) => [name, rewrite(child, name)]);
  return replaced(Object.assign(Object.create(Object.getPrototypeOf(value)), Object.fromEntries(fields)));
}

function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && 'type' in value && typeof value.type === 'string';
}

/** Fields that hold statements, whose results are printed one after the other. */
function isBlock(field: string | undefined): boolean {
  return field === 'body' || field === 'alternate' || field === 'defaultBlock';
}

const NOT_PRINTED = new Set([
  ...['If', 'For', 'Break', 'Continue', 'Set', 'Macro', 'Comment', 'FilterStatement', 'CallStatement'],
  'StringLiteral',
]);

function printed(statement: unknown): unknown {
  return isNode(statement) && !NOT_PRINTED.has(statement.type) ? call(STR, [boxed(statement)]) : statement;
}

function replaced(node: Node): Node {
  if (node.type === 'FilterExpression') return replacedFilter(node);
  if (node.type === 'BinaryExpression') return replacedSum(node);
  if (node.type !== 'CallExpression' || !isNode(node.callee) || node.callee.type !== 'MemberExpression')
    return node;
  const { object, property, computed } = node.callee;
  if (computed || !isNode(property) || !isNode(object)) return node;
  if (property.value !== 'strip' && property.value !== 'lstrip' && property.value !== 'rstrip') return node;
  return call(STRIP, [boxed(object), text(property.value), ...(node.args as Node[])]);
}

function replacedFilter(node: Node): Node {
  const { operand, filter } = node;
  if (!isNode(filter) || filter.type !== 'Identifier' || !isNode(operand)) return node;
  if (filter.value === 'string') return call(STR, [boxed(operand)]);
  if (filter.value === 'trim') return call(STRIP, [boxed(call(STR, [boxed(operand)])), text('strip')]);
  return node;
}

/** A sum with a part that is certainly a string; others may be sums of numbers or lists. */
function replacedSum(node: Node): Node {
  const { operator, left, right } = node;
  if (!isNode(operator) || operator.value !== '+' || !isNode(left) || !isNode(right)) return node;
  return isString(left) || isString(right) ? call(CONCAT, [boxed(left), boxed(right)]) : node;
}

function isString(node: Node): boolean {
  if (node.type === 'StringLiteral') return true;
  return (
    node.type === 'CallExpression' &&
    isNode(node.callee) &&
    Object.hasOwn(PYTHON_FUNCTIONS, String(node.callee.value))
  );
}

function call(name: string, args: readonly Node[]): Node {
  return { type: 'CallExpression', callee: { type: 'Identifier', value: name }, args };
}

/** The engine hands functions bare values, which do not tell None from undefined; in a list they keep their type. */
function boxed(node: Node): Node {
  return { type: 'ArrayLiteral', value: [node] };
}

function text(value: string): Node {
  return { type: 'StringLiteral', value };
}
