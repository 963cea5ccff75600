import type { AdamParams, EngineDatum, ForwardBackwardResult, HostTensor } from '@anneal/engine';

/** A forward-backward pass, as far as its step's metrics need it. */
export interface Pass {
  data: readonly EngineDatum[];
  lossFn: string;
  metrics: ForwardBackwardResult['metrics'];
  /** When the engine got it. */
  startedAt: number;
}

/** Joins the passes of one optimizer step into the step's metrics. Keys keep their reduction, as in `loss:sum`. */
export class StepAccumulator {
  readonly #sums = new Map<string, { value: number; weight: number }>();
  #tokens = 0;
  #sequences = 0;
  #targets = 0;
  #startedAt = Number.POSITIVE_INFINITY;
  touchedAt = 0;
  lossFn = '';

  add(pass: Pass, now: number): void {
    this.touchedAt = now;
    this.lossFn = pass.lossFn;
    this.#startedAt = Math.min(this.#startedAt, pass.startedAt);
    this.#sequences += pass.data.length;
    for (const datum of pass.data) {
      this.#tokens += datum.tokens.length;
      this.#targets += targetsOf(datum);
    }
    for (const [name, value] of Object.entries(pass.metrics)) this.#join(name, value, pass.data.length);
  }

  get tokens(): number {
    return this.#tokens;
  }

  /**
   * The step's metrics; values that are not finite are left out.
   *
   * @param previousEnd When the run's previous step ended: waiting behind it is not part of this one.
   */
  finish(adam: AdamParams, stepMetrics: Record<string, number>, now: number, previousEnd: number) {
    const seconds = Math.max(now - Math.max(this.#startedAt, previousEnd), 1) / 1000;
    const sums = Object.fromEntries([...this.#sums].map(([name, { value }]) => [name, value]));
    const loss = sums['loss:sum'];
    const isPass = this.#sequences > 0;
    const all = {
      ...(loss !== undefined && this.#targets > 0 ? { 'loss:mean': loss / this.#targets } : {}),
      ...sums,
      ...stepMetrics,
      learning_rate: adam.learningRate,
      ...(isPass
        ? {
            'tokens:sum': this.#tokens,
            'sequences:sum': this.#sequences,
            step_seconds: seconds,
            tokens_per_second: this.#tokens / seconds,
          }
        : {}),
    };
    return Object.fromEntries(Object.entries(all).filter(([, value]) => Number.isFinite(value)));
  }

  /** @param weight Number of datums, by which means are averaged. */
  #join(name: string, value: number, weight: number): void {
    const known = this.#sums.get(name);
    if (!known) return void this.#sums.set(name, { value, weight });
    const reduction = name.split(':')[1];
    if (reduction === 'sum') known.value += value;
    else if (reduction === 'min') known.value = Math.min(known.value, value);
    else if (reduction === 'max') known.value = Math.max(known.value, value);
    else if (reduction === 'mean') {
      known.value = (known.value * known.weight + value * weight) / (known.weight + weight);
    } else known.value = value;
    known.weight += weight;
  }
}

/** Over what the loss was summed: the weights where there are any, else the tokens with an advantage, else all. */
function targetsOf({ tokens, inputs }: EngineDatum): number {
  const { weights, advantages } = inputs;
  if (weights) return total(weights, Math.abs);
  if (advantages) return total(advantages, (value) => (value === 0 ? 0 : 1));
  return tokens.length;
}

function total(tensor: HostTensor, count: (value: number) => number): number {
  let sum = 0;
  for (const value of tensor.data) sum += count(Number(value));
  return sum;
}
