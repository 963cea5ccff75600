/** The native addon's surface, as far as we call it ourselves. tfjs kernels call the same object. */

/** File name of the addon that Anneal builds, which has all of this; a stock one has less. */
export const ADDON_FILE = 'anneal.node';

/** TensorFlow's numeric dtype codes (`TF_DataType`) that appear here. */
export const DataType = {
  float32: 1,
  int32: 3,
  uint8: 4,
  int8: 6,
  string: 7,
  int64: 9,
  bool: 10,
  bfloat16: 14,
  resource: 20,
} as const;

export interface OpAttr {
  name: string;
  type: number;
  value: unknown;
}

/** A tensor as the addon reports it: a handle id, a static shape, a `TF_DataType`. */
export interface TensorMeta {
  id: number;
  shape: number[];
  dtype: number;
}

export type AnyTypedArray = Float32Array | Int32Array | Int8Array | Uint8Array | Uint16Array | BigInt64Array;

/** What upstream's addon exports. */
export interface NativeBinding {
  createTensor(shape: number[], dtype: number, values: AnyTypedArray | Uint8Array[]): number;
  deleteTensor(id: number): void;
  tensorDataSync(id: number): AnyTypedArray;
  executeOp(op: string, attrs: OpAttr[], inputIds: number[], numOutputs: number): TensorMeta[];
  isUsingGpuDevice(): boolean;
  getNumOfTensors(): number;
  readonly TF_Version: string;
  readonly TF_ATTR_STRING: number;
  readonly TF_ATTR_INT: number;
  readonly TF_ATTR_FLOAT: number;
  readonly TF_ATTR_BOOL: number;
  readonly TF_ATTR_TYPE: number;
  readonly TF_ATTR_SHAPE: number;
}

/** One finished graph operation. A shape is null when TensorFlow cannot infer its rank. */
export interface GraphNode {
  op: number;
  outputs: { dtype: number; shape: number[] | null }[];
}

/** What tokens take through all layers; shapes as in native/fused_layers.h. Lists hold tensor ids, -1 where there is none. */
export interface FusedLayersCall {
  /** hidden, heads, kv heads, head dim, intermediate, past positions, recent positions */
  sizes: Int32Array;
  normEps: number;
  attentionScale: number;
  embedScale: number;
  /** Whether weights in bfloat16 are multiplied as such. */
  bfloat16Products: boolean;
  /** Whether the cache is in bfloat16. */
  bfloat16Cache: boolean;
  /** Whether the result is [rows, 1, hidden], and not [rows, hidden]. */
  asSteps: boolean;
  /** One per row. */
  tokens: Int32Array;
  /** Id of the table of embeddings. */
  embed: number;
  cos: Float32Array;
  sin: Float32Array;
  /** Per row: from and to which past position it looks, from and to which recent one, and which of those is its own. */
  places: Int32Array;
  /** Per layer: two norms, seven matrices, three biases, two norms of heads. */
  weights: Int32Array;
  /** Per layer: past keys and values, recent keys and values. */
  cache: Int32Array;
  /** Numbers of {@link GraphBinding.keepAdapter}. */
  adapters: Int32Array;
  /** Per row, -1 for none. */
  adapterOfRow: Int32Array;
}

/** Of each row, see native/fused_head.h. */
export interface FusedHeadResults {
  argmax: Int32Array;
  /** The best token where none was drawn. */
  drawn: Int32Array;
  /** Logits of `argmax` and `drawn`. */
  argmaxLogit: Float32Array;
  drawnLogit: Float32Array;
  /** log Σ exp(logit), untempered */
  logTotal: Float32Array;
  /** Σ exp((logit − best) / temperature) */
  mass: Float32Array;
}

/** What hidden states that leave the last layer take through the head; as {@link FusedLayersCall}. */
export interface FusedHeadCall {
  /** hidden, vocab */
  sizes: Int32Array;
  normEps: number;
  bfloat16Products: boolean;
  /** Ids of [rows, hidden], [hidden], and the matrix [vocab, hidden]. */
  x: number;
  norm: number;
  weight: number;
  /** As in {@link FusedLayersCall}. */
  adapters: Int32Array;
  adapterOfRow: Int32Array;
  /** Per row; 1 where it does not matter. */
  temperatures: Float32Array;
  /** Per row: a number in [0, 1) that draws a token from softmax(logits / temperature), or -1 for none. */
  draws: Float64Array;
  /** Filled by the call. */
  results: FusedHeadResults;
}

/** A layer of Llama's for training, see native/training_layer.h; tensors by their ids, as in {@link FusedLayersCall}. */
export interface TrainingLayerCall {
  /** hidden, heads, kvHeads, headDim, intermediate, batch, time, window */
  sizes: Int32Array;
  normEps: number;
  attentionScale: number;
  bfloat16Products: boolean;
  /** The layer's, as in {@link FusedLayersCall}. */
  weights: Int32Array;
  /** Ids of A and B of each adapter's modules. */
  modules: Int32Array;
  /** Of each adapter's modules; 0: it is not adapted. */
  ranks: Int32Array;
  scales: Float32Array;
  /** int32 [batch]; -1: all have the first. */
  adapterOfRow: number;
  /** [time, headDim / 2] */
  cos: number;
  sin: number;
  /** [batch, time, hidden] */
  x: number;
}

/** Hidden rows to log-probabilities of targets and back, see native/training_head.h; tensors by their ids. */
export interface TrainingHeadCall {
  /** rows of h, of which the first so many count, hidden, vocab, targets per row, rank (0: the head is not adapted) */
  sizes: Int32Array;
  /** After the final norm, [rows, hidden]. */
  h: number;
  /** [vocab, hidden] */
  weight: number;
  /** A [rank, hidden] and B [vocab, rank], -1 where there is none. */
  a: number;
  b: number;
  scale: number;
  bfloat16Products: boolean;
  /** [rows, targets per row], as all that follow. */
  targets: Int32Array;
  /** Where gradients are wanted. */
  dlogprobs?: Float32Array;
  /** Filled by the call. */
  logprobs: Float32Array;
}

/** What native/anneal_extension.cc adds; absent from the stock addon. */
export interface GraphBinding {
  createTensorCopy(shape: number[], dtype: number, values: AnyTypedArray): number;
  /** `fill` is given the tensor's memory, which is detached from JavaScript when it returns. */
  createTensorFilled(shape: number[], dtype: number, fill: (memory: ArrayBuffer) => void): number;
  /** Returns the id of what leaves the last layer, [rows, hidden]; writes to the recent keys and values. For the CPU. */
  fusedLayers(call: FusedLayersCall): number;
  /**
   * Keeps an adapter as sampling reads it; its tensors are not needed any more. For the CPU.
   * @param ids A [rank, in] and B [out, rank] of the seven modules of each layer in turn, then of the head
   * @param shapes rank, in and out of each; rank 0: it is not adapted
   * @param narrow In bfloat16
   * @returns Its number, for {@link dropAdapter}
   */
  keepAdapter(ids: Int32Array, shapes: Int32Array, scale: number, narrow: boolean): number;
  dropAdapter(number: number): void;
  /** Returns the id of the logits, [rows, vocab]. For the CPU. */
  fusedHead(call: FusedHeadCall): number;
  /** The sum of all squares of tensors. For the CPU. */
  squaredNorm(ids: Int32Array): number;
  /**
   * Ids of the next parameters; m and v change in place. For the CPU.
   * @param scalars As AdamScalars in native/adamw.h
   */
  adamStep(
    parameters: Int32Array,
    gradients: Int32Array,
    m: Int32Array,
    v: Int32Array,
    scalars: Float32Array,
  ): number[];
  /** Ids of the gradients where those are wanted: of h, and of A and B where there are such. For the CPU. */
  trainingHead(call: TrainingHeadCall): number[];
  /** Id of the layer's result; where it `keeps` what {@link trainingBackward} wants, the id of that and its floats. For the CPU. */
  trainingForward(call: TrainingLayerCall, keeps: boolean): number[];
  /**
   * Ids of the gradients: of x where `needsDx`, then of A and B of each adapter's modules. For the CPU.
   * @param kept -1: the forward pass is done again
   */
  trainingBackward(call: TrainingLayerCall, kept: number, dy: number, needsDx: boolean): number[];
  /**
   * New tensors [heads, ...middle, dim] of rows from parts [heads, ..., dim]. For the CPU.
   * @param ids Of each new tensor's parts in turn
   * @param index For each of its rows, which of the parts' rows it is, counted through
   * @param narrow They are in bfloat16, as parts may be then, too.
   */
  gatherRows(
    ids: Int32Array,
    parts: number,
    index: Int32Array,
    middle: Int32Array,
    narrow: boolean,
  ): number[];
  graphNew(): number;
  graphDelete(graph: number): void;
  graphPlaceholder(graph: number, dtype: number, shape: number[] | null): GraphNode;
  graphConst(graph: number, shape: number[], dtype: number, values: AnyTypedArray): GraphNode;
  graphOp(graph: number, op: string, attrs: OpAttr[], inputs: Int32Array, controlOps: Int32Array): GraphNode;
  graphFunction(
    graph: number,
    name: string,
    ops: Int32Array,
    inputs: Int32Array,
    outputs: Int32Array,
    xla: boolean,
  ): void;
  removeFunction(name: string): void;
}

/** True when the addon was built with our extension, so functions can be compiled. */
export function hasGraphs(binding: NativeBinding): binding is NativeBinding & GraphBinding {
  return 'graphFunction' in binding;
}
