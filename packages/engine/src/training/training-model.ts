/** One user's model in training: adapter, optimizer state and accumulated gradient. */
import { profiled, type Tensor, tf } from '@anneal/tensorflow';
import type {
  AdamParams,
  ForwardBackwardRequest,
  ForwardBackwardResult,
  OptimStepResult,
} from '../engine.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import { type AdamState, adamwStep, createAdamState, disposeAdamState } from '../optimizer/adamw.ts';
import { addInto } from './gradient-sum.ts';
import type { Trainer, TrainerResult } from './trainer.ts';

export class TrainingModel {
  readonly baseModel: string;
  readonly adapter: LoraAdapter;
  readonly optimizer: AdamState;
  readonly #trainer: Trainer;
  #grads: Tensor[] | undefined;

  constructor(baseModel: string, trainer: Trainer, adapter: LoraAdapter, optimizer = createAdamState()) {
    this.baseModel = baseModel;
    this.#trainer = trainer;
    this.adapter = adapter;
    this.optimizer = optimizer;
  }

  get trainer(): Trainer {
    return this.#trainer;
  }

  /** Adds the gradient of the sum loss; a request that fails adds nothing. */
  *forwardBackward(request: ForwardBackwardRequest): Generator<void, ForwardBackwardResult> {
    return this.add(yield* this.#trainer.steps(this.adapter, request));
  }

  /** Adds what the trainer made of a request of this model. */
  add({ outputs, metrics, grads }: TrainerResult): ForwardBackwardResult {
    if (grads) this.#grads = addInto(this.#grads, grads);
    return { outputs, metrics };
  }

  /** Uses the accumulated gradient (zero if there is none) and clears it, even when the step is refused. */
  optimStep(params: AdamParams): OptimStepResult {
    const grads = this.#grads;
    this.#grads = undefined;
    try {
      const { parameters, norm } = profiled('unit', 'optim step', () =>
        adamwStep(this.adapter.parameters(), grads, this.optimizer, params),
      );
      if (parameters) this.adapter.replaceParameters(parameters);
      return { metrics: { 'grad_norm:l2': norm } };
    } finally {
      if (grads) tf.dispose(grads);
    }
  }

  dispose(): void {
    if (this.#grads) tf.dispose(this.#grads);
    this.#grads = undefined;
    disposeAdamState(this.optimizer);
    this.adapter.dispose();
  }
}
