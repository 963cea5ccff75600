/**
 * forward_backward on one base model: plans passes over a request's datums, runs layers, head and loss, and returns
 * per-datum logprobs, metrics and the adapter's gradients. Keeps no state between calls; see training-model.ts for that.
 */
import { profiled, type Tensor, tf } from '@anneal/tensorflow';
import { type EngineDatum, EngineError, type ForwardBackwardRequest, type HostTensor } from '../engine.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import {
  checkDatums,
  describeNonFinite,
  padInputs,
  parseLossConfig,
  targetsPerPosition,
} from '../losses/inputs.ts';
import type { LossConfig, LossDefinition } from '../losses/loss.ts';
import { foldMetrics, type MetricsPart } from '../losses/metrics.ts';
import { findLoss } from '../losses/registry.ts';
import type { LoraModule } from '../models/architecture.ts';
import type { BaseModel } from '../models/base-model.ts';
import { type MicroBatch, planBatches } from './batch-plan.ts';
import { addInto } from './gradient-sum.ts';
import { HeadPass } from './head-pass.ts';
import { disposeRecord, type ForwardRecord, LayerStack } from './layer-stack.ts';
import { type EvaluatedLoss, evaluateLoss } from './loss-evaluation.ts';

export interface TrainerOptions {
  /** Bytes of activations that one pass may keep; passes are cut to fit, and beyond it layers are computed twice. */
  activationBudgetBytes: number;
}

export interface TrainerResult {
  outputs: Record<string, HostTensor>[];
  metrics: Record<string, number>;
  /** In the order of `adapter.parameters()`; absent for forward-only calls. */
  grads?: Tensor[];
}

interface Call {
  loss: LossDefinition;
  config: LossConfig;
  data: EngineDatum[];
  scale: number;
  /** Logprobs of the base model per datum, where the loss asked for them. */
  baseLogprobs: { input: string; values: Float32Array[] } | undefined;
}

export class Trainer {
  readonly #base: BaseModel;
  readonly #options: TrainerOptions;
  readonly #stack: LayerStack;
  readonly #head: HeadPass;

  constructor(base: BaseModel, options: TrainerOptions) {
    this.#base = base;
    this.#options = options;
    this.#stack = new LayerStack(base);
    this.#head = new HeadPass(base);
  }

  get stack(): LayerStack {
    return this.#stack;
  }

  get head(): HeadPass {
    return this.#head;
  }

  /**
   * Runs a request, yielding after each pass so that others can use the device in between.
   * @throws EngineError (user) naming datum, field and value; the caller's gradients are then as they were.
   */
  *steps(adapter: LoraAdapter, request: ForwardBackwardRequest): Generator<void, TrainerResult> {
    const call = yield* this.#prepare(request);
    const outputs: Record<string, HostTensor>[] = new Array(call.data.length);
    const parts: MetricsPart[] = [];
    let grads: Tensor[] | undefined;
    try {
      for (const batch of this.#plan(call)) {
        const pass = profiled(
          'unit',
          'train pass',
          () => this.#runBatch(adapter, call, batch, request.forwardOnly, outputs),
          () => ({ model: request.modelId, ...passArgs(batch, call.data) }),
        );
        parts.push(pass.metrics);
        if (pass.grads) grads = addInto(grads, pass.grads);
        yield;
      }
    } catch (error) {
      tf.dispose(grads ?? []);
      throw error;
    }
    return { outputs, metrics: foldMetrics(parts), grads };
  }

  *#prepare({ data, lossFn, lossFnConfig }: ForwardBackwardRequest): Generator<void, Call> {
    const loss = findLoss(lossFn);
    const config = parseLossConfig(loss, lossFnConfig);
    const baseInput = loss.baseLogprobsInput?.(config);
    checkDatums(loss, config, data, this.#base.config.vocabSize, this.#base.config.maxContextLength);
    loss.validate?.(data, config);
    const call: Call = {
      loss,
      config,
      data,
      scale: loss.callScale?.(data, config) ?? 1,
      baseLogprobs: undefined,
    };
    if (baseInput) call.baseLogprobs = { input: baseInput, values: yield* this.logprobs(undefined, data) };
    return call;
  }

  /** Logprobs of every datum's targets, without loss or gradient; `undefined` adapter is the base model. */
  *logprobs(adapter: LoraAdapter | undefined, data: EngineDatum[]): Generator<void, Float32Array[]> {
    const result: Float32Array[] = new Array(data.length);
    for (const batch of planBatches(planItems(data), this.#maxTokens(0), 1)) {
      const ids = idsTensor(batch, data);
      const x = this.#stack.forward(ids, adapter);
      const logprobs = this.#head.logprobs(x, adapter, batch, data);
      batch.datums.forEach((datum, row) => {
        result[datum] = rowOf(logprobs, batch, row, data[datum]!.tokens.length);
      });
      tf.dispose([ids, x]);
      yield;
    }
    return result;
  }

  #plan(call: Call): MicroBatch[] {
    const { data, loss, config } = call;
    const items = planItems(data);
    const longest = Math.max(...items.map((item) => item.length));
    return planBatches(items, this.#maxTokens(longest), loss.groupSize, loss.order?.(data, config));
  }

  /** Tokens whose kept activations fit the budget, for sequences of this length. */
  #maxTokens(length: number): number {
    const perToken = this.#savedBytesPerToken(length);
    return Math.max(256, Math.floor(this.#options.activationBudgetBytes / perToken));
  }

  /** What a pass keeps per token with residuals: about the linear maps' outputs, the attention matrix and the layer's input. */
  #savedBytesPerToken(length: number): number {
    const { config } = this.#base;
    const width = (module: LoraModule) => module.outFeatures * (module.experts?.perToken ?? 1);
    const linears = this.#base.layers.flatMap((_, layer) => this.#base.layerModules(layer).map(width));
    const perLayer = config.hiddenSize + config.numHeads * length;
    return 4 * (linears.reduce((sum, outputs) => sum + outputs, 0) + config.numLayers * perLayer);
  }

  #runBatch(
    adapter: LoraAdapter,
    call: Call,
    batch: MicroBatch,
    forwardOnly: boolean,
    outputs: Record<string, HostTensor>[],
  ) {
    const { data, loss } = call;
    const inputs = padInputs(
      loss,
      call.config,
      batch.datums.map((i) => data[i]!),
      batch.width,
      batch.targetsPerPosition,
    );
    if (call.baseLogprobs) fillRows(inputs[call.baseLogprobs.input]!, call.baseLogprobs.values, batch);
    const ids = idsTensor(batch, data);
    let record: ForwardRecord | undefined;
    let x: Tensor | undefined;
    try {
      if (forwardOnly || adapter.layers.every((modules) => modules.length === 0))
        x = this.#stack.forward(ids, adapter);
      else ({ x, record } = this.#stack.forwardForTraining(ids, adapter, this.#mustRecompute(batch)));
      const known = !forwardOnly && loss.linearWeights ? inputs[loss.linearWeights]! : undefined;
      const scored = known
        ? this.#head.gradients(x, adapter, batch, data, negated(known, call.scale))
        : { logprobs: this.#head.logprobs(x, adapter, batch, data), gradients: undefined };
      const evaluated = evaluateLoss(
        loss,
        call.config,
        call.scale,
        batch,
        data,
        scored.logprobs,
        inputs,
        !forwardOnly && !known,
      );
      this.#collect(call, batch, scored.logprobs, evaluated, outputs);
      if (forwardOnly) return { metrics: evaluated.metrics };
      const head =
        scored.gradients ?? this.#head.gradients(x, adapter, batch, data, evaluated.dlogprobs!).gradients;
      const layerGrads = record ? this.#stack.backward(record, adapter, head.dx) : [];
      if (!record) head.dx.dispose();
      record = undefined;
      return { metrics: evaluated.metrics, grads: [...layerGrads, ...head.adapterGrads] };
    } finally {
      tf.dispose([ids, ...(x ? [x] : [])]);
      if (record) disposeRecord(record);
    }
  }

  #mustRecompute(batch: MicroBatch): boolean {
    const bytes = this.#savedBytesPerToken(batch.width) * batch.height * batch.width;
    return bytes > this.#options.activationBudgetBytes;
  }

  #collect(
    call: Call,
    batch: MicroBatch,
    logprobs: Float32Array,
    evaluated: EvaluatedLoss,
    outputs: Record<string, HostTensor>[],
  ): void {
    const lengths = batch.datums.map((i) => call.data[i]!.tokens.length);
    const refuse = (problem: string) => new EngineError('user', `loss_fn "${call.loss.name}": ${problem}`);
    const { elementwise, metrics } = evaluated;
    const problem = elementwise && describeNonFinite(elementwise, lengths, batch.width, batch.datums);
    if (problem) throw refuse(problem);
    const loss = metrics.values['loss:sum'];
    if (!Number.isFinite(loss)) throw refuse(`the loss is ${loss} over data[${batch.datums.join(', ')}].`);
    batch.datums.forEach((datum, row) => {
      const shape = call.data[datum]!.inputs.target_tokens!.shape;
      outputs[datum] = {
        logprobs: { dtype: 'float32', shape, data: rowOf(logprobs, batch, row, lengths[row]!) },
      };
    });
  }

  dispose(): void {
    this.#stack.dispose();
  }
}

function planItems(data: EngineDatum[]) {
  return data.map((datum) => ({
    length: datum.tokens.length,
    targetsPerPosition: targetsPerPosition(datum),
  }));
}

/** Token ids of a pass, [height, width], padded with 0; causal attention keeps padding at the end from mattering. */
export function idsTensor(batch: MicroBatch, data: EngineDatum[]): Tensor {
  const ids = new Int32Array(batch.height * batch.width);
  batch.datums.forEach((datum, row) => {
    ids.set(data[datum]!.tokens, row * batch.width);
  });
  return tf.tensor2d(ids, [batch.height, batch.width], 'int32');
}

/** A pass as profiles show it: real rows and tokens, and the shape that is computed. */
function passArgs({ datums, height, width }: MicroBatch, data: EngineDatum[]) {
  const tokens = datums.reduce((sum, datum) => sum + data[datum]!.tokens.length, 0);
  return { batch: datums.length, height, width, tokens };
}

function rowOf(
  values: Float32Array,
  { width, targetsPerPosition: k }: MicroBatch,
  row: number,
  length: number,
): Float32Array {
  return values.slice(row * width * k, (row * width + length) * k);
}

function fillRows(
  target: Float32Array,
  rows: Float32Array[],
  { datums, width, targetsPerPosition: k }: MicroBatch,
): void {
  datums.forEach((datum, row) => {
    target.set(rows[datum]!, row * width * k);
  });
}

function negated(weights: Float32Array, scale: number): Float32Array {
  return weights.map((w) => -w * scale);
}
