import { createHash, type Hash } from 'node:crypto';

/**
 * A digest that is equal for equal values, whatever the order of their keys. Two submissions under one sequence number
 * are the same request when their digests are.
 */
export function bodyHash(value: unknown): string {
  const hash = createHash('sha256');
  add(hash, value);
  return hash.digest('base64url');
}

function add(hash: Hash, value: unknown): void {
  if (ArrayBuffer.isView(value)) {
    hash.update(`${value.constructor.name}${value.byteLength}:`);
    hash.update(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
  } else if (Array.isArray(value)) {
    if (value.every((item) => typeof item === 'number')) {
      hash.update(`[${value.join()}]`);
      return;
    }
    hash.update(`[${value.length}`);
    for (const item of value) add(hash, item);
  } else if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value)
      .filter(([, item]) => item !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1));
    hash.update(`{${entries.length}`);
    for (const [key, item] of entries) {
      hash.update(`${JSON.stringify(key)}:`);
      add(hash, item);
    }
  } else {
    hash.update(typeof value === 'string' ? JSON.stringify(value) : `${String(value)};`);
  }
}
