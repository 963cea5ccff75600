/** Where a page of a list begins and how long it is. */
export interface PageOptions {
  limit?: number;
  offset?: number;
}

/**
 * All items of a list that comes in pages.
 *
 * @param fetchPage gives the items from `offset` on, and how many there are in all where the server says so
 */
export async function* eachItem<T>(
  pageSize: number,
  fetchPage: (page: Required<PageOptions>) => Promise<{ items: readonly T[]; total?: number }>,
): AsyncGenerator<T, void, undefined> {
  let offset = 0;
  for (;;) {
    const { items, total } = await fetchPage({ limit: pageSize, offset });
    yield* items;
    offset += items.length;
    const isLast = total === undefined ? items.length < pageSize : offset >= total;
    if (items.length === 0 || isLast) return;
  }
}
