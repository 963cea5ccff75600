import type { Engine, AdamParams as EngineAdam, EngineDatum } from '@anneal/engine';
import type { DecodedForwardBackwardRequest, OptimStepRequest, UntypedApiFuture } from '@anneal/types';
import { AdamParams, encodeForwardBackwardOutput, wire } from '@anneal/types';
import { ApiError } from '../errors.ts';
import { bodyHash } from '../wire/body-hash.ts';
import { type InputContext, readModelInput } from '../wire/model-input.ts';
import type { AssetStore } from './assets.ts';
import type { BaseModels } from './base-models.ts';
import { jsonResult, protobufResult } from './failure.ts';
import type { LiveModels } from './live-models.ts';
import type { Recorder } from './recorder.ts';
import type { TrainingService } from './training.ts';

export interface PassDeps {
  engine: Engine;
  baseModels: BaseModels;
  assets: AssetStore;
  training: TrainingService;
  live: LiveModels;
  recorder: Recorder;
}

/** The two primitives that train: forward (and backward) passes, and optimizer steps. */
export class PassService {
  readonly #engine: Engine;
  readonly #baseModels: BaseModels;
  readonly #assets: AssetStore;
  readonly #training: TrainingService;
  readonly #live: LiveModels;
  readonly #recorder: Recorder;

  constructor({ engine, baseModels, assets, training, live, recorder }: PassDeps) {
    this.#engine = engine;
    this.#baseModels = baseModels;
    this.#assets = assets;
    this.#training = training;
    this.#live = live;
    this.#recorder = recorder;
  }

  /** Loss and gradients of a batch; with `forwardOnly`, the loss alone. */
  forwardBackward(owner: string, request: DecodedForwardBackwardRequest): Promise<UntypedApiFuture> {
    const { modelId, forwardOnly, lossFn, lossFnConfig } = request;
    return this.#training.submit(owner, {
      kind: forwardOnly ? 'forward' : 'forward_backward',
      modelId,
      seq: request.seqId,
      bodyHash: bodyHash(request),
      run: async (live, seq) => {
        const context = { model: this.#baseModels.get(live.run.baseModel), assets: this.#assets };
        const data = await toEngineData(request.data, context);
        const startedAt = Date.now();
        const pass = this.#engine.forwardBackward({ modelId, data, lossFn, lossFnConfig, forwardOnly });
        const result = (async () => {
          const output = await pass;
          if (!forwardOnly) this.#live.changed(live, seq, 'gradient');
          checkMetrics(output.metrics);
          if (!forwardOnly) {
            this.#recorder.passed(live.run, { data, lossFn, metrics: output.metrics, startedAt });
          }
          const tokens = data.reduce((sum, datum) => sum + datum.tokens.length, 0);
          const detail = { tokens, sequences: data.length, lossFn, metrics: finiteOnly(output.metrics) };
          const outcome = protobufResult(encodeForwardBackwardOutput(output), detail);
          return forwardOnly ? { outcome } : { outcome, effect: { changedSeq: seq } };
        })();
        return { result };
      },
    });
  }

  /** Applies and clears the accumulated gradient. */
  optimStep(owner: string, request: OptimStepRequest): Promise<UntypedApiFuture> {
    const params = adamParams(request);
    return this.#training.submit(owner, {
      kind: 'optim_step',
      modelId: request.model_id,
      seq: request.seq_id ?? undefined,
      bodyHash: bodyHash(request),
      run: async (live, seq, ended) => {
        const adam = toEngineAdam(params);
        const step = this.#engine.optimStep(live.run.id, adam);
        let stepsBy = 0;
        const result = (async () => {
          const { metrics } = await step;
          this.#live.changed(live, seq, 'step');
          stepsBy = live.step;
          this.#recorder.stepped(live.run, live.step, adam, metrics);
          const told = finiteOnly(metrics);
          const detail = { metrics: { ...told, learning_rate: adam.learningRate } };
          const outcome = jsonResult({ type: 'optim_step', metrics: told }, detail);
          return { outcome, effect: { changedSeq: seq } };
        })();
        result.catch(() => {});
        const steps = ended.then((succeeded) => (succeeded ? stepsBy : undefined));
        await this.#live.storeAfterStep(live, seq, steps);
        return { result };
      },
    });
  }
}

async function toEngineData(
  data: DecodedForwardBackwardRequest['data'],
  context: InputContext,
): Promise<EngineDatum[]> {
  const read: EngineDatum[] = [];
  for (const [index, { chunks, inputs }] of data.entries())
    read.push({ ...(await readModelInput(chunks, `data[${index}].model_input`, context)), inputs });
  return read;
}

/** Clients split each key at its only colon, and read `loss:sum`. */
function checkMetrics(metrics: Record<string, number>): void {
  const bad = Object.keys(metrics).find((key) => key.split(':').length !== 2);
  if (bad !== undefined) {
    throw new ApiError('internal', `The loss reports the metric "${bad}", which has no single ":reduction"`);
  }
  if (!('loss:sum' in metrics)) throw new ApiError('internal', 'The loss reports no metric "loss:sum"');
}

/** JSON has no infinities. */
function finiteOnly(metrics: Record<string, number>): Record<string, number> {
  return Object.fromEntries(Object.entries(metrics).filter(([, value]) => Number.isFinite(value)));
}

function adamParams(request: OptimStepRequest): AdamParams {
  const given = request.adam_params ?? request.optimizer_params ?? request.optim_params;
  return wire(AdamParams).parse(given);
}

function toEngineAdam(params: AdamParams): EngineAdam {
  return {
    learningRate: params.learning_rate,
    beta1: params.beta1,
    beta2: params.beta2,
    eps: params.eps,
    weightDecay: params.weight_decay,
    gradClipNorm: params.grad_clip_norm,
  };
}
