/** JSON whose integers keep all their digits. */

/** Stands for a bigint while JSON.stringify runs; no text of ours holds it. */
const MARK = '\u0000bigint:';

function dropNulls(value: unknown): unknown {
  if (Array.isArray(value)) return typeof value[0] === 'object' ? value.map(dropNulls) : value;
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value;
  const entries = Object.entries(value).filter(([, field]) => field !== null && field !== undefined);
  return Object.fromEntries(entries.map(([key, field]) => [key, dropNulls(field)]));
}

/** JSON text; a bigint becomes an integer literal. Typed arrays must have been turned into plain ones. */
export function stringifyLossless(value: unknown): string {
  let marked = false;
  const text = JSON.stringify(value, (_key, field) => {
    if (typeof field !== 'bigint') return field;
    marked = true;
    return MARK + field;
  });
  return marked ? text.replaceAll(/"\\u0000bigint:(-?\d+)"/g, '$1') : text;
}

/** JSON text without the fields that are null: the API takes absence for "not given". */
export function stringifyWithoutNulls(value: unknown): string {
  return stringifyLossless(dropNulls(value));
}
