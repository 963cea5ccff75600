/** Token ids that look random and are the same in every run: mulberry32, seeded. */

/** Ids below this are special in many vocabularies; ids above {@link HIGHEST} do not exist in some. */
const LOWEST = 10;
const HIGHEST = 30_000;

export type Random = () => number;

/** Numbers in [0, 1). */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Sequences of these lengths. Different seeds give different ids, so that no cache of prompts helps. */
export function randomSequences(lengths: number[], seed: number, vocabSize: number): Int32Array[] {
  const random = seededRandom(seed);
  const span = Math.min(HIGHEST, vocabSize) - LOWEST;
  return lengths.map((length) => Int32Array.from({ length }, () => LOWEST + Math.floor(random() * span)));
}

/** Lengths between two bounds, evenly spread over their logarithm: a few long ones and many short ones, as in real data. */
export function mixedLengths(count: number, shortest: number, longest: number, seed: number): number[] {
  const random = seededRandom(seed);
  const ratio = Math.log(longest / shortest);
  return Array.from({ length: count }, () => Math.round(shortest * Math.exp(random() * ratio)));
}
