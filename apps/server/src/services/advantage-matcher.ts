import { createHash } from 'node:crypto';
import type { EngineDatum, SampleResult } from '@anneal/engine';

/** A text that was sampled. */
export interface SampledText {
  id: string;
  text: number;
}

/** The latest texts that training may still use. */
const REMEMBERED = 5000;

/**
 * Finds sampled texts again when a policy loss trains on them: a datum's tokens are prompt and text without the last one,
 * which is only a target.
 */
export class AdvantageMatcher {
  readonly #texts = new Map<string, SampledText>();

  remember(id: string, prompt: Int32Array, result: SampleResult): void {
    for (const [text, { tokens }] of result.sequences.entries()) {
      if (tokens.length === 0) continue;
      this.#texts.set(digest([prompt, tokens.subarray(0, -1)]), { id, text });
    }
    for (const key of this.#texts.keys()) {
      if (this.#texts.size <= REMEMBERED) break;
      this.#texts.delete(key);
    }
  }

  /** The texts among the data, each with the mean of its nonzero advantages. */
  match(data: readonly EngineDatum[]): (SampledText & { advantage: number })[] {
    if (this.#texts.size === 0) return [];
    return data.flatMap(({ tokens, inputs: { advantages } }) => {
      if (!advantages) return [];
      const found = this.#texts.get(digest([tokens]));
      if (!found) return [];
      const used = Array.from(advantages.data, Number).filter((value) => value !== 0);
      const advantage = used.reduce((sum, value) => sum + value, 0) / Math.max(used.length, 1);
      return Number.isFinite(advantage) ? [{ ...found, advantage }] : [];
    });
  }
}

function digest(parts: Int32Array[]): string {
  const hash = createHash('sha1');
  for (const part of parts) hash.update(new Uint8Array(part.buffer, part.byteOffset, part.byteLength));
  return hash.digest('base64');
}
