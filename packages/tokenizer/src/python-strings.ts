// Python's `str()` and `str.strip()` as chat templates meet them.

/** A value of the template engine: `type` names its kind, `value` holds it (lists and objects hold such values again). */
export interface RuntimeValue {
  readonly type: string;
  readonly value: unknown;
}

/** `str(value)`. An undefined variable prints nothing. */
export function pythonStr({ type, value }: RuntimeValue): string {
  if (type === 'UndefinedValue') return '';
  return typeof value === 'string' ? value : pythonRepr({ type, value });
}

function pythonRepr({ type, value }: RuntimeValue): string {
  if (type === 'NullValue' || value === undefined) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'string') return quoted(value);
  if (type === 'FloatValue' && Number.isInteger(value)) return `${value}.0`;
  if (Array.isArray(value)) return `[${value.map(pythonRepr).join(', ')}]`;
  if (value instanceof Map) {
    const members = [...value].map(([key, item]) => `${quoted(String(key))}: ${pythonRepr(item)}`);
    return `{${members.join(', ')}}`;
  }
  return String(value);
}

const ESCAPES: Record<string, string> = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' };

function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text.replace(/[\\\n\r\t]|\p{Cc}/gu, (character) => {
    return ESCAPES[character] ?? `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });
  return quote + (quote === "'" ? escaped.replaceAll("'", "\\'") : escaped) + quote;
}

/** Python takes these for whitespace and JavaScript does not; with U+FEFF it is the other way round. */
const PYTHON_ONLY = '\x1c\x1d\x1e\x1f\x85';

function isWhitespace(character: string): boolean {
  return character !== '\ufeff' && (/\s/.test(character) || PYTHON_ONLY.includes(character));
}

export type StripSides = 'strip' | 'lstrip' | 'rstrip';

/** `text.strip()`, `.lstrip()`, `.rstrip()`: of whitespace, or of any of `characters`. */
export function pythonStrip(text: string, sides: StripSides, characters?: string): string {
  const set = characters === undefined ? undefined : new Set(characters);
  const stripped = (character: string | undefined) =>
    character !== undefined && (set ? set.has(character) : isWhitespace(character));
  const all = [...text];
  let [start, end] = [0, all.length];
  if (sides !== 'rstrip') while (start < end && stripped(all[start])) start++;
  if (sides !== 'lstrip') while (end > start && stripped(all[end - 1])) end--;
  return all.slice(start, end).join('');
}
