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
import type { BaseModel } from '../models/base-model.ts';
import { checkImages } from '../vision/check-images.ts';
import { disposePlaced, type PlacedImages, placeImages } from '../vision/placed-images.ts';
import { type MicroBatch, planBatches } from './batch-plan.ts';
import { addInto } from './gradient-sum.ts';
import { HeadPass } from './head-pass.ts';
import { HeadRun } from './head-run.ts';
import { disposeRecord, type ForwardRecord, LayerStack } from './layer-stack.ts';
import { type EvaluatedLoss, evaluateLoss } from './loss-evaluation.ts';
import { PassAdapters } from './pass-adapters.ts';

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

/** A call of one model. */
export interface TrainerCall {
  adapter: LoraAdapter;
  request: ForwardBackwardRequest;
}

interface Call extends TrainerCall {
  loss: LossDefinition;
  config: LossConfig;
  scale: number;
  /** Logprobs of the base model per datum, where the loss asked for them. */
  baseLogprobs: { input: string; values: Float32Array[] } | undefined;
}

/** Calls that run together, which have one loss and config: their datums in a row, and which call each is of. */
interface Together {
  calls: Call[];
  data: EngineDatum[];
  /** Per datum: its call, and its index there. */
  owners: { call: number; index: number }[];
  forwardOnly: boolean;
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
    const call = yield* this.#prepare({ adapter, request });
    const [result] = yield* this.#run([call]);
    return result!;
  }

  /**
   * Runs requests with one loss and config in passes that they share; of several with one adapter, the first result has the
   * gradient of all. A request that fails leaves the others as they would have been.
   */
  *stepsTogether(requests: TrainerCall[]): Generator<void, (TrainerResult | Error)[]> {
    const prepared: (Call | Error)[] = [];
    for (const request of requests) prepared.push(yield* attempt(() => this.#prepare(request)));
    const calls = prepared.filter((call): call is Call => !(call instanceof Error));
    const shared = calls.length > 0 ? yield* attempt(() => this.#run(calls)) : [];
    const results: (TrainerResult | Error)[] = [];
    for (const call of prepared) {
      if (call instanceof Error) results.push(call);
      else if (!(shared instanceof Error)) results.push(shared[calls.indexOf(call)]!);
      else {
        const alone = yield* attempt(() => this.#run([call]));
        results.push(alone instanceof Error ? alone : alone[0]!);
      }
    }
    return results;
  }

  *#prepare({ adapter, request }: TrainerCall): Generator<void, Call> {
    const { data, lossFn, lossFnConfig } = request;
    const loss = findLoss(lossFn);
    const config = parseLossConfig(loss, lossFnConfig);
    const baseInput = loss.baseLogprobsInput?.(config);
    checkDatums(loss, config, data, this.#base.config.vocabSize, this.#base.config.maxContextLength);
    data.forEach((datum, i) => {
      checkImages(`data[${i}].model_input`, datum, this.#base);
    });
    loss.validate?.(data, config);
    const scale = loss.callScale?.(data, config) ?? 1;
    const call: Call = { adapter, request, loss, config, scale, baseLogprobs: undefined };
    if (baseInput) call.baseLogprobs = { input: baseInput, values: yield* this.logprobs(undefined, data) };
    return call;
  }

  /** Logprobs of every datum's targets, without loss or gradient; `undefined` adapter is the base model. */
  *logprobs(adapter: LoraAdapter | undefined, data: EngineDatum[]): Generator<void, Float32Array[]> {
    const result: Float32Array[] = new Array(data.length);
    const adapters = adapter && new PassAdapters([adapter]);
    for (const batch of planBatches(planItems(data), this.#maxTokens(0, data), 1)) {
      const ids = idsTensor(batch, data);
      const images = this.#images(batch, data);
      const x = this.#stack.forward(ids, adapters, images);
      disposePlaced(images);
      const logprobs = this.#head.logprobs(x, adapter, batch, data);
      batch.datums.forEach((datum, row) => {
        result[datum] = rowOf(logprobs, batch, row, data[datum]!.tokens.length);
      });
      tf.dispose([ids, x]);
      yield;
    }
    return result;
  }

  *#run(calls: Call[]): Generator<void, TrainerResult[]> {
    const together: Together = {
      calls,
      data: calls.flatMap(({ request }) => request.data),
      owners: calls.flatMap(({ request }, call) => request.data.map((_, index) => ({ call, index }))),
      forwardOnly: calls[0]!.request.forwardOnly,
    };
    const outputs: Record<string, HostTensor>[][] = calls.map(() => []);
    const parts: MetricsPart[][] = calls.map(() => []);
    const grads = new Map<LoraAdapter, Tensor[]>();
    try {
      for (const batch of this.#plan(together)) {
        const pass = profiled(
          'unit',
          'train pass',
          () => this.#runBatch(together, batch, outputs, parts),
          () => passArgs(together, batch),
        );
        for (const [adapter, added] of pass) grads.set(adapter, addInto(grads.get(adapter), added));
        yield;
      }
    } catch (error) {
      tf.dispose([...grads.values()].flat());
      throw error;
    }
    return calls.map(({ adapter }, i) => {
      const own = grads.get(adapter);
      grads.delete(adapter);
      return { outputs: outputs[i]!, metrics: foldMetrics(parts[i]!), ...(own ? { grads: own } : {}) };
    });
  }

  #plan({ data, calls }: Together): MicroBatch[] {
    const items = planItems(data);
    const longest = Math.max(...items.map((item) => item.length));
    let start = 0;
    const order = calls.flatMap(({ loss, config, request }) => {
      const own = loss.order?.(request.data, config) ?? [...request.data.keys()];
      const placed = own.map((datum) => start + datum);
      start += request.data.length;
      return placed;
    });
    return planBatches(items, this.#maxTokens(longest, data), calls[0]!.loss.groupSize, order);
  }

  /** Tokens whose kept activations fit the budget, for sequences of this length. */
  #maxTokens(length: number, data: EngineDatum[]): number {
    const perToken = this.#stack.keptBytesPerToken(length, data.some(hasImages));
    return Math.max(256, Math.floor(this.#options.activationBudgetBytes / perToken));
  }

  /** One pass: forward, losses, and where wanted backward. Returns the gradients of each adapter's parameters. */
  #runBatch(
    together: Together,
    batch: MicroBatch,
    outputs: Record<string, HostTensor>[][],
    parts: MetricsPart[][],
  ): Map<LoraAdapter, Tensor[]> {
    const { calls, data, owners, forwardOnly } = together;
    const { loss, config } = calls[0]!;
    const ownerOf = batch.datums.map((datum) => owners[datum]!);
    const adapterOf = (row: number) => calls[ownerOf[row]?.call ?? ownerOf[0]!.call]!.adapter;
    const adapters = new PassAdapters(Array.from({ length: batch.height }, (_, row) => adapterOf(row)));
    const inputs = padInputs(
      loss,
      config,
      batch.datums.map((i) => data[i]!),
      batch.width,
      batch.targetsPerPosition,
    );
    ownerOf.forEach(({ call, index }, row) => {
      const { baseLogprobs } = calls[call]!;
      if (baseLogprobs) inputs[baseLogprobs.input]!.set(baseLogprobs.values[index]!, row * rowSize(batch));
    });
    const ids = idsTensor(batch, data);
    const images = this.#images(batch, data);
    let record: ForwardRecord | undefined;
    let x: Tensor | undefined;
    try {
      if (forwardOnly || adapters.lowest < 0) x = this.#stack.forward(ids, adapters, images);
      else {
        const recompute = this.#mustRecompute(batch, images !== undefined);
        ({ x, record } = this.#stack.forwardForTraining(ids, adapters, recompute, images));
      }
      const known = !forwardOnly && loss.linearWeights ? inputs[loss.linearWeights]! : undefined;
      const heads = new HeadRun(this.#head, x, adapters, adapterOf, batch, data);
      const scales = ownerOf.map(({ call }) => calls[call]!.scale);
      const scored = known
        ? heads.gradients(negated(known, scales, batch))
        : { logprobs: heads.logprobs(), gradients: undefined };
      const wantsGradient = !forwardOnly && !known;
      const dlogprobs = wantsGradient ? new Float32Array(scored.logprobs.length) : undefined;
      calls.forEach((call, c) => {
        const rows = ownerOf.flatMap((owner, row) => (owner.call === c ? [row] : []));
        if (rows.length === 0) return;
        const part = partOf(batch, rows);
        const logprobs = pickRows(scored.logprobs, batch, rows);
        const partInputs = Object.fromEntries(
          Object.entries(inputs).map(([name, values]) => [name, pickRows(values, batch, rows)]),
        );
        const evaluated = evaluateLoss(
          loss,
          config,
          call.scale,
          part,
          data,
          logprobs,
          partInputs,
          wantsGradient,
        );
        collect(call, together, part, logprobs, evaluated, outputs[c]!);
        parts[c]!.push(evaluated.metrics);
        rows.forEach((row, i) => {
          const size = rowSize(batch);
          dlogprobs?.set(evaluated.dlogprobs!.subarray(i * size, (i + 1) * size), row * size);
        });
      });
      if (forwardOnly) return new Map();
      const head = scored.gradients ?? heads.gradients(dlogprobs!).gradients;
      const layerGrads = record ? this.#stack.backward(record, adapters, head.dx) : [];
      if (!record) head.dx.dispose();
      record = undefined;
      return new Map(
        adapters.distinct.map((adapter, i) => [
          adapter,
          [...(layerGrads[i] ?? []), ...(head.adapterGrads.get(adapter) ?? [])],
        ]),
      );
    } finally {
      tf.dispose([ids, ...(x ? [x] : [])]);
      adapters.dispose();
      if (record) disposeRecord(record);
      disposePlaced(images);
    }
  }

  #images(batch: MicroBatch, data: EngineDatum[]): PlacedImages | undefined {
    const rows = batch.datums.map((datum) => ({ images: data[datum]!.images ?? [], start: 0 }));
    return placeImages(this.#base, rows, batch);
  }

  #mustRecompute(batch: MicroBatch, withImages: boolean): boolean {
    const bytes = this.#stack.keptBytesPerToken(batch.width, withImages) * batch.height * batch.width;
    return bytes > this.#options.activationBudgetBytes;
  }

  dispose(): void {
    this.#stack.dispose();
  }
}

function hasImages({ images = [] }: EngineDatum): boolean {
  return images.length > 0;
}

/** The value of a generator, or what it threw. */
function* attempt<T>(start: () => Generator<void, T>): Generator<void, T | Error> {
  try {
    return yield* start();
  } catch (error) {
    return error as Error;
  }
}

function collect(
  { loss }: Call,
  { data, owners }: Together,
  batch: MicroBatch,
  logprobs: Float32Array,
  evaluated: EvaluatedLoss,
  outputs: Record<string, HostTensor>[],
): void {
  const lengths = batch.datums.map((i) => data[i]!.tokens.length);
  const indices = batch.datums.map((i) => owners[i]!.index);
  const refuse = (problem: string) => new EngineError('user', `loss_fn "${loss.name}": ${problem}`);
  const { elementwise, metrics } = evaluated;
  const problem = elementwise && describeNonFinite(elementwise, lengths, batch.width, indices);
  if (problem) throw refuse(problem);
  const value = metrics.values['loss:sum'];
  if (!Number.isFinite(value)) throw refuse(`the loss is ${value} over data[${indices.join(', ')}].`);
  batch.datums.forEach((datum, row) => {
    const { shape } = data[datum]!.inputs.target_tokens!;
    outputs[indices[row]!] = {
      logprobs: { dtype: 'float32', shape, data: rowOf(logprobs, batch, row, lengths[row]!) },
    };
  });
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
function passArgs({ calls, data, owners }: Together, { datums, height, width }: MicroBatch) {
  const tokens = datums.reduce((sum, datum) => sum + data[datum]!.tokens.length, 0);
  const models = new Set(datums.map((datum) => calls[owners[datum]!.call]!.request.modelId));
  return { model: [...models].join(), batch: datums.length, height, width, tokens };
}

/** Values of a row. */
function rowSize({ width, targetsPerPosition }: MicroBatch): number {
  return width * targetsPerPosition;
}

/** Some rows of a pass, as a pass of their own. */
function partOf(batch: MicroBatch, rows: number[]): MicroBatch {
  return { ...batch, datums: rows.map((row) => batch.datums[row]!), height: rows.length };
}

function pickRows(values: Float32Array, batch: MicroBatch, rows: number[]): Float32Array {
  const size = rowSize(batch);
  const picked = new Float32Array(rows.length * size);
  rows.forEach((row, i) => {
    picked.set(values.subarray(row * size, (row + 1) * size), i * size);
  });
  return picked;
}

function rowOf(
  values: Float32Array,
  { width, targetsPerPosition: k }: MicroBatch,
  row: number,
  length: number,
): Float32Array {
  return values.slice(row * width * k, (row * width + length) * k);
}

/** −weight · scale of each row's call: the gradient of a loss that is linear in the logprobs. */
function negated(weights: Float32Array, scales: number[], batch: MicroBatch): Float32Array {
  const size = rowSize(batch);
  return weights.map((weight, i) => -weight * (scales[Math.floor(i / size)] ?? 0));
}
