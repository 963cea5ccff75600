/**
 * Installs the TensorFlow backend into tfjs and routes every kernel's op either to the device or, while a function is
 * being traced, into a graph. Knows nothing of how the addon came to be (install/) or what is traced (compile/).
 */
import { createRequire } from 'node:module';
import { basename } from 'node:path';
import {
  ADDON_FILE,
  type AnyTypedArray,
  DataType,
  type GraphBinding,
  hasGraphs,
  type NativeBinding,
  type OpAttr,
  type TensorMeta,
} from './binding.ts';
import { replaceKernels } from './kernels.ts';
import { profiled } from './profile.ts';
import { type Tensor, tf } from './tf.ts';

const require = createRequire(import.meta.url);

/** Receives ops instead of the device; see compile/trace.ts. */
export interface OpSink {
  addOp(op: string, attrs: OpAttr[], inputIds: number[], numOutputs: number): TensorMeta[];
  addConst(shape: number[], dtype: number, values: AnyTypedArray): number;
}

interface TensorEntry {
  shape: number[];
  dtype: number;
  id: number;
  values: AnyTypedArray | null;
  refCount: number;
}

/** The parts of tfjs-node's NodeJSKernelBackend that we reach into. */
interface KernelBackend {
  binding: NativeBinding;
  tensorMap: { get(dataId: object): TensorEntry; set(dataId: object, entry: TensorEntry): void };
  getInputTensorIds(tensors: Tensor[]): number[];
}

interface Loaded {
  native: NativeBinding;
  graphs: (NativeBinding & GraphBinding) | undefined;
  backend: KernelBackend;
}

let loaded: Loaded | undefined;
let sink: OpSink | undefined;

/**
 * Sets what TensorFlow reads from the environment while it is loaded, unless a person has set it. Must run in the main
 * thread before any thread loads the addon: a worker's copy of the environment does not reach the C library.
 * @param addonPath The addon that will be loaded
 */
export function setTensorflowDefaults(addonPath: string): void {
  // Start-up hints on stderr are of no use to those who cannot rebuild TensorFlow; errors still show.
  process.env.TF_CPP_MIN_LOG_LEVEL ??= '2';
  // oneDNN is off by default on processors without AVX-512; measured, its small and skewed products are faster there too.
  process.env.TF_ENABLE_ONEDNN_OPTS ??= '1';
  // Elementwise parts of a decode step are so small that handing them to YNNPACK's threads costs more than they do. Another build of
  // TensorFlow might not know the flag, and stop.
  if (basename(addonPath) === ADDON_FILE) process.env.XLA_FLAGS ??= '--xla_cpu_experimental_ynn_fusion_type=';
}

/** Loads the addon at `path` and makes it tfjs's backend. Loading twice in one thread is a no-op. */
export function installAddon(path: string): void {
  if (loaded) return;
  setTensorflowDefaults(path);
  const native = require(path) as NativeBinding;
  const graphs = hasGraphs(native) ? native : undefined;
  const { NodeJSKernelBackend } = require('@tensorflow/tfjs-node-gpu/dist/nodejs_kernel_backend') as {
    NodeJSKernelBackend: new (binding: NativeBinding, packageName: string) => KernelBackend;
  };
  const backend = new NodeJSKernelBackend(routed(native, graphs), '@tensorflow/tfjs-node-gpu');
  tf.registerBackend(
    'tensorflow',
    () => backend as unknown as ReturnType<Parameters<typeof tf.registerBackend>[1]>,
    3,
  );
  require('@tensorflow/tfjs-node-gpu/dist/register_all_kernels');
  replaceKernels();
  tf.setBackend('tensorflow');
  loaded = { native, graphs, backend };
}

/** The addon as tfjs kernels see it: the same names, with tracing and thread-safe uploads in between. */
function routed(native: NativeBinding, graphs: (NativeBinding & GraphBinding) | undefined): NativeBinding {
  const names = Object.getOwnPropertyNames(native) as (keyof NativeBinding)[];
  const copy = Object.fromEntries(
    names.map((name) => {
      const value: unknown = native[name];
      return [name, typeof value === 'function' ? value.bind(native) : value];
    }),
  ) as unknown as NativeBinding;
  return {
    ...copy,
    executeOp: (op, attrs, ids, n) =>
      sink ? sink.addOp(op, attrs, ids, n) : profiled('op', op, () => native.executeOp(op, attrs, ids, n)),
    createTensor: (shape, dtype, values) => {
      if (Array.isArray(values)) return native.createTensor(shape, dtype, values);
      if (sink) return sink.addConst(shape, dtype, values);
      return graphs
        ? graphs.createTensorCopy(shape, dtype, values)
        : native.createTensor(shape, dtype, values);
    },
    tensorDataSync: (id) => {
      if (sink)
        throw new Error(
          "A traced function read a tensor's values. Compute with tensors, or pass the value in.",
        );
      return profiled('op', 'read values', () => native.tensorDataSync(id));
    },
  };
}

function current(): Loaded {
  if (!loaded) throw new Error('TensorFlow is not loaded: call loadTensorflow() first.');
  return loaded;
}

/** Whether TensorFlow computes; without it tfjs does so by other means. */
export function isLoaded(): boolean {
  return loaded !== undefined;
}

/** The addon with our extension, or undefined where functions run eagerly (stock addon, wasm, nothing loaded). */
export function graphBinding(): (NativeBinding & GraphBinding) | undefined {
  return loaded?.graphs;
}

/** Runs `body` with every op going to `target`. Traces do not nest. */
export function withSink<T>(target: OpSink, body: () => T): T {
  if (sink)
    throw new Error('A compiled function was called while another is being traced: call the plain function.');
  sink = target;
  try {
    return body();
  } finally {
    sink = undefined;
  }
}

export function isTracing(): boolean {
  return sink !== undefined;
}

/** Handle ids of tensors, uploading those whose values are still on the host. */
export function tensorIds(tensors: Tensor[]): number[] {
  return current().backend.getInputTensorIds(tensors);
}

/** Moves a fresh tensor's values to the device now, so that the host copy can be collected; returns the tensor. */
export function upload<T extends Tensor>(tensor: T): T {
  if (loaded) tensorIds([tensor]);
  return tensor;
}

/** The `TF_DataType` on the device; differs from tfjs's dtype for bfloat16, which tfjs has no name for. */
export function deviceDtype(tensor: Tensor): number {
  return current().backend.tensorMap.get(tensor.dataId).dtype;
}

const TFJS_DTYPE: Record<number, 'float32' | 'int32' | 'bool'> = {
  [DataType.float32]: 'float32',
  [DataType.bfloat16]: 'float32',
  [DataType.int8]: 'float32',
  [DataType.int32]: 'int32',
  [DataType.bool]: 'bool',
};

/** Makes a tfjs tensor of a handle. A bfloat16 or int8 one claims to be float32: only compiled functions may touch it. */
export function wrapTensor(meta: TensorMeta): Tensor {
  const dtype = TFJS_DTYPE[meta.dtype];
  if (!dtype)
    throw new Error(`A compiled function returned TF_DataType ${meta.dtype}, which tfjs cannot hold.`);
  const dataId = {};
  current().backend.tensorMap.set(dataId, {
    shape: meta.shape,
    dtype: meta.dtype,
    id: meta.id,
    values: null,
    refCount: 1,
  });
  return tf.engine().makeTensorFromTensorInfo({ dataId, shape: meta.shape, dtype });
}

/**
 * Runs a TensorFlow op that tfjs has no kernel for, eagerly or inside a trace.
 * @param attrs Type attributes may be left out where TensorFlow infers them.
 */
export function rawOp(op: string, attrs: OpAttr[], inputs: Tensor[], numOutputs: number): Tensor[] {
  const { backend } = current();
  return backend.binding.executeOp(op, attrs, backend.getInputTensorIds(inputs), numOutputs).map(wrapTensor);
}

/**
 * Random numbers uniform in [0, 1) that depend on the seed alone (TensorFlow's Philox), eagerly or inside a trace.
 * @param seed int32 [2]
 */
export function statelessUniform(shape: number[], seed: Tensor): Tensor {
  if (!loaded) return tf.randomUniform(shape, 0, 1, 'float32', seed.dataSync().join());
  const { TF_ATTR_TYPE: type } = loaded.native;
  const attrs = [
    { name: 'dtype', type, value: DataType.float32 },
    { name: 'T', type, value: DataType.int32 },
    { name: 'Tseed', type, value: DataType.int32 },
  ];
  const shapeTensor = tf.tensor1d(shape, 'int32');
  const [uniform] = rawOp('StatelessRandomUniform', attrs, [shapeTensor, seed], 1);
  shapeTensor.dispose();
  return uniform!;
}

/** Version of the loaded TensorFlow library, and whether it uses a GPU. */
export function backendInfo(): { tensorflowVersion: string; gpu: boolean; compiled: boolean } {
  if (!loaded) return { tensorflowVersion: 'none (wasm)', gpu: false, compiled: false };
  const { native, graphs } = loaded;
  return {
    tensorflowVersion: native.TF_Version,
    gpu: native.isUsingGpuDevice(),
    compiled: graphs !== undefined,
  };
}

/** Handles held by the addon, traced or not: a leak test watches it next to `tf.memory().numTensors`. */
export function numDeviceTensors(): number {
  return current().native.getNumOfTensors();
}

export { current as currentBackend };
