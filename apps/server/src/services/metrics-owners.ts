import { Counter, Registry } from 'prom-client';
import type { Recorder, Used } from './recorder.ts';

const MEASURES = [
  { key: 'trainedTokens', name: 'anneal_owner_trained_tokens_total', help: 'Tokens of training steps' },
  { key: 'steps', name: 'anneal_owner_steps_total', help: 'Optimizer steps' },
  { key: 'promptTokens', name: 'anneal_owner_prompt_tokens_total', help: 'Tokens of prompts' },
  { key: 'sampledTokens', name: 'anneal_owner_sampled_tokens_total', help: 'Tokens that were sampled' },
] as const satisfies { key: keyof Used; name: string; help: string }[];

type Totals = Record<(typeof MEASURES)[number]['key'], number>;

/** Owners with series of their own; those who come later are counted together. */
const MAX_OWNERS = 1000;
const OTHERS = '(others)';

/** What each owner used since the start of the server. */
export class OwnerMetrics {
  readonly #totals = new Map<string, Totals>();

  constructor(recorder: Recorder) {
    recorder.onUsed((used) => this.#add(used));
  }

  /** A registry with the series of the owners that `sees` allows. */
  registry(sees: (owner: string) => boolean): Registry {
    const registry = new Registry();
    const seen = [...this.#totals].filter(([owner]) => sees(owner));
    for (const { key, name, help } of MEASURES) {
      const counter = new Counter({
        name,
        help: `${help}, by owner`,
        labelNames: ['owner'],
        registers: [registry],
      });
      for (const [owner, totals] of seen) counter.inc({ owner }, totals[key]);
    }
    return registry;
  }

  #add(used: Used): void {
    const owner = this.#totals.has(used.owner) || this.#totals.size < MAX_OWNERS ? used.owner : OTHERS;
    const totals = this.#totals.get(owner) ?? {
      trainedTokens: 0,
      steps: 0,
      promptTokens: 0,
      sampledTokens: 0,
    };
    for (const { key } of MEASURES) totals[key] += used[key];
    this.#totals.set(owner, totals);
  }
}
