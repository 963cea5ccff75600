/** Databases take a limited number of values in one statement. */
const LARGEST_LIST = 500;

/** The list in pieces that fit into an `in (...)`. */
export function chunks<T>(list: readonly T[]): T[][] {
  const pieces: T[][] = [];
  for (let start = 0; start < list.length; start += LARGEST_LIST) {
    pieces.push(list.slice(start, start + LARGEST_LIST));
  }
  return pieces;
}
