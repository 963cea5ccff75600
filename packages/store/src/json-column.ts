/** JSON text of free-form values; integers beyond 2^53, which JSON readers round, become text. */
export function toJsonColumn(value: unknown): string {
  return JSON.stringify(value, (_key, item) => (typeof item === 'bigint' ? item.toString() : item));
}
