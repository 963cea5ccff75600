/** Temperature, top-k and top-p on one row of logits, on the host: small pure functions over a sorted candidate list. */

/** Candidates of one position, best first. */
export interface Candidates {
  ids: Int32Array | number[];
  logits: Float32Array | number[];
}

/** A finite distribution: ids and their probabilities, best first, summing to 1. */
export interface Distribution {
  ids: number[];
  probabilities: number[];
}

/**
 * The distribution that a token is drawn from: logits / temperature, then the k best, then the smallest set whose share of
 * the rest reaches p, renormalised (TINKER-API section 14.3).
 *
 * @param candidates Sorted by logit, ties by id. May be cut after the best few.
 * @param totalMass Σ exp((logit − best logit) / temperature) over the whole vocabulary.
 * @returns undefined when the given candidates do not reach far enough and a longer list is needed.
 */
export function truncate(
  candidates: Candidates,
  { temperature, topK, topP }: { temperature: number; topK: number; topP: number },
  totalMass: number,
  vocabSize: number,
): Distribution | undefined {
  const available = candidates.ids.length;
  const limit = topK > 0 ? Math.min(topK, vocabSize) : vocabSize;
  if (topK > 0 && limit > available) return undefined;
  const best = candidates.logits[0] as number;
  const masses: number[] = [];
  for (let i = 0; i < Math.min(limit, available); i++)
    masses.push(Math.exp(((candidates.logits[i] as number) - best) / temperature));
  const remaining = topK > 0 ? masses.reduce((sum, mass) => sum + mass, 0) : totalMass;
  let kept = 0;
  let keptMass = 0;
  while (kept < masses.length && (kept === 0 || keptMass < topP * remaining))
    keptMass += masses[kept++] as number;
  if (keptMass < topP * remaining && kept < limit && available < limit) return undefined;
  return {
    ids: Array.from({ length: kept }, (_, i) => candidates.ids[i] as number),
    probabilities: masses.slice(0, kept).map((mass) => mass / keptMass),
  };
}

/**
 * Draws an id: the least of exponential variates with the probabilities as rates (the Gumbel-max trick in other words).
 * @param uniform Uniform numbers in [0, 1) by id, so that rounding moves a draw only where two ids nearly tie.
 */
export function drawFrom({ ids, probabilities }: Distribution, uniform: (id: number) => number): number {
  let drawn = ids[0] as number;
  let least = Number.POSITIVE_INFINITY;
  ids.forEach((id, i) => {
    const arrival = -Math.log1p(-uniform(id)) / (probabilities[i] as number);
    if (arrival < least) {
      least = arrival;
      drawn = id;
    }
  });
  return drawn;
}

/** All ids of a row, best first, ties by id. */
export function sortedCandidates(logits: Float32Array): Candidates {
  const ids = Int32Array.from(logits, (_, i) => i).sort(
    (a, b) => (logits[b] as number) - (logits[a] as number) || a - b,
  );
  return { ids, logits: Float32Array.from(ids, (id) => logits[id] as number) };
}
