/** Decides which TensorFlow this process will use, and makes it ready to load. */
import { ensureAddon } from './addon.ts';
import { annealCacheDir } from './cache-dir.ts';
import { TensorflowSetupError } from './errors.ts';
import { describeHost, type Host } from './host.ts';
import type { OnSetupProgress } from './progress.ts';
import { findStockBinding } from './stock-binding.ts';
import { chooseWheel, type Device, TENSORFLOW_VERSION, type WheelPlan } from './wheel-plan.ts';

export interface PrepareOptions {
  onProgress?: OnSetupProgress;
  /** Default: `ANNEAL_CACHE_DIR`, else `$XDG_CACHE_HOME/anneal`, else `~/.cache/anneal`. */
  cacheDir?: string;
  /** `auto` (default) takes the CUDA build where an NVIDIA GPU is found. `gpu` fails without one. */
  device?: Device;
  /**
   * What may stand in when something that a person can mend (pip, g++, disk, network) keeps the addon from being
   * built: `stock` (default) an installed tfjs-node, else the error is thrown; `wasm` also the WebAssembly backend.
   */
  fallback?: 'stock' | 'wasm';
}

export interface PreparedTensorflow {
  /**
   * `addon`: built by Anneal, compiles functions. `stock`: tfjs-node's own, runs eagerly.
   * `wasm`: `@tensorflow/tfjs-backend-wasm`, eager and slow.
   */
  kind: 'addon' | 'stock' | 'wasm';
  /** The `.node` file to load; absent for `wasm`. */
  addonPath?: string;
  /** Absent where it is only known after loading. */
  tensorflowVersion?: string;
  /** The libraries are built for CUDA and a GPU was found. */
  gpu: boolean;
  /** Why it is this kind, and what it lacks; one sentence each, for a person. */
  notes: string[];
}

/**
 * Finds or builds a TensorFlow for this machine: the addon in the user's cache folder, else it is downloaded (pip) and
 * compiled (g++) there, else an installed tfjs-node, else WebAssembly. Safe to call from many processes at once.
 *
 * @throws {TensorflowSetupError} when something that can be mended is missing; see `fallback`.
 */
export async function prepareTensorflow(options: PrepareOptions = {}): Promise<PreparedTensorflow> {
  const env = process.env;
  const { device = 'auto', fallback = 'stock', onProgress = () => {} } = options;
  const host = await describeHost(env);
  const { plan, notes } = chooseWheel(host, device);
  if (device === 'gpu') requireGpu(host, plan, notes);
  if (!plan) return (await stockTensorflow(host, device, notes)) ?? wasmTensorflow(notes);
  try {
    const cacheDir = options.cacheDir ?? annealCacheDir(env);
    const addonPath = await ensureAddon({ plan, cacheDir, env, onProgress });
    return {
      kind: 'addon',
      addonPath,
      tensorflowVersion: TENSORFLOW_VERSION,
      gpu: plan.variant === 'cuda12',
      notes,
    };
  } catch (error) {
    if (!TensorflowSetupError.isInstance(error) || device === 'gpu') throw error;
    const why = [...notes, error.message];
    const stock = await stockTensorflow(host, device, why);
    if (stock) return stock;
    if (fallback === 'wasm') return wasmTensorflow(why);
    throw error;
  }
}

function requireGpu(host: Host, plan: WheelPlan | undefined, notes: string[]): void {
  if (host.nvidiaGpu && plan?.variant === 'cuda12') return;
  const problem = host.nvidiaGpu
    ? notes.join(' ')
    : 'The device "gpu" was asked for, but no NVIDIA GPU was found.';
  const remedy = 'Install the NVIDIA driver (check with nvidia-smi), or use the device "cpu".';
  throw new TensorflowSetupError('gpu_missing', problem, remedy);
}

async function stockTensorflow(
  host: Host,
  device: Device,
  notes: string[],
): Promise<PreparedTensorflow | undefined> {
  const gpu = host.nvidiaGpu && device !== 'cpu';
  const stock = await findStockBinding(gpu);
  if (!stock) return undefined;
  const note = `Using the binding of ${stock.package} ${stock.version}: functions run eagerly, in fp32 only, and slower.`;
  const usesGpu = gpu && stock.package === '@tensorflow/tfjs-node-gpu';
  return { kind: 'stock', addonPath: stock.addonPath, gpu: usesGpu, notes: [...notes, note] };
}

function wasmTensorflow(notes: string[]): PreparedTensorflow {
  const note =
    'Warning: using the WebAssembly backend. It works, but is many times slower: fit for tiny models only.';
  return { kind: 'wasm', gpu: false, notes: [...notes, note] };
}
