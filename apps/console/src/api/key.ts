/** The key that was entered in this browser. */
const NAME = 'anneal.key';

export function storedKey(): string | null {
  return localStorage.getItem(NAME);
}

export function storeKey(key: string | null): void {
  if (key === null) localStorage.removeItem(NAME);
  else localStorage.setItem(NAME, key);
}

/** Headers of a call; without a key there are none. */
export function keyHeaders(): Record<string, string> {
  const key = storedKey();
  return key === null ? {} : { authorization: `Bearer ${key}` };
}
