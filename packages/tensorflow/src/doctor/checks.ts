/** Small computations that show whether the loaded backend does what training needs, and how fast it is. */
import { backendInfo, graphBinding } from '../backend.ts';
import { compile } from '../compile/compile.ts';
import { filledTensor } from '../filled-tensor.ts';
import { type Tensor, type Tensor2D, tf } from '../tf.ts';

export interface Check {
  /** `unavailable`: this kind of backend does not have it. */
  status: 'ok' | 'failed' | 'unavailable';
  /** One line for a person: the measured error, or what went wrong. */
  detail: string;
}

const UNAVAILABLE: Check = { status: 'unavailable', detail: 'only the addon that Anneal builds has it' };

/** A gated layer with a softmax: matrix products, elementwise work and a reduction. */
function layer({ x, w }: { x: Tensor; w: Tensor }): { y: Tensor } {
  const h = tf.matMul(x as Tensor2D, w as Tensor2D);
  return { y: tf.mul(tf.softmax(h), tf.sigmoid(h)) };
}

/** Runs one function compiled and eagerly on the same random inputs and compares the results. */
export function checkCompiled(options: { xla: boolean }): Check {
  if (!graphBinding()) return UNAVAILABLE;
  // On a GPU fp32 products may run in TF32, whose mantissa has 10 bits, and XLA chooses other kernels.
  const tolerance = backendInfo().gpu ? 1e-2 : 1e-5;
  return guarded(() => {
    const inputs = { x: tf.randomNormal([16, 64]), w: tf.randomNormal([64, 32]) };
    const error = largestDifference(compile('doctor_layer', layer, options)(inputs).y, layer(inputs).y);
    const detail = `largest difference from eager ${error.toExponential(1)}`;
    return { status: error <= tolerance ? 'ok' : 'failed', detail };
  });
}

/**
 * Runs a matrix product in bfloat16. Its 8-bit mantissa must show (else fp32 was used in silence), but not by more than
 * rounding explains.
 */
export function checkBfloat16(): Check {
  if (!graphBinding()) return UNAVAILABLE;
  return guarded(() => {
    const inputs = { x: tf.randomNormal([16, 64]), w: tf.randomNormal([64, 32]) };
    const product = ({ x, w }: typeof inputs) => ({ y: tf.matMul(x as Tensor2D, w as Tensor2D) as Tensor });
    const narrow = compile('doctor_bf16', product, { matmulPrecision: 'bf16' })(inputs).y;
    const exact = product(inputs).y;
    const error = largestDifference(narrow, exact) / (tf.max(tf.abs(exact)).dataSync()[0] ?? 1);
    const detail = `relative error ${error.toExponential(1)}`;
    return { status: error > 0 && error < 2e-2 ? 'ok' : 'failed', detail };
  });
}

function guarded(check: () => Check): Check {
  tf.engine().startScope();
  try {
    return check();
  } catch (error) {
    return { status: 'failed', detail: error instanceof Error ? error.message : String(error) };
  } finally {
    tf.engine().endScope();
  }
}

function largestDifference(a: Tensor, b: Tensor): number {
  const expected = b.dataSync();
  // NaN must not pass for zero.
  return Array.from(a.dataSync()).reduce((largest, value, i) => {
    const difference = Math.abs(value - (expected[i] as number));
    return Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(largest, difference);
  }, 0);
}

const MEASURE_SECONDS = 0.4;

/** Rate of a square matrix product of `size`, in GFLOP/s; bf16 takes both factors in bf16, as frozen weights are kept. */
export function measureMatmul(size: number, precision: 'fp32' | 'bf16'): number {
  const factor = () => (precision === 'bf16' ? randomBfloat16(size) : tf.randomNormal([size, size]));
  const inputs = { a: factor(), b: factor() };
  // Reading one element waits for the product without copying all of it back.
  const product = compile(
    'doctor_matmul',
    ({ a, b }: { a: Tensor; b: Tensor }) => ({
      corner: tf.slice(tf.matMul(a as Tensor2D, b as Tensor2D), [0, 0], [1, 1]) as Tensor,
    }),
    { matmulPrecision: precision },
  );
  const runOnce = () => tf.tidy(() => product(inputs).corner.dataSync());
  try {
    runOnce();
    const start = performance.now();
    let runs = 0;
    let seconds = 0;
    for (; seconds < MEASURE_SECONDS; runs++, seconds = (performance.now() - start) / 1000) runOnce();
    return (runs * 2 * size ** 3) / seconds / 1e9;
  } finally {
    tf.dispose(inputs);
  }
}

function randomBfloat16(size: number): Tensor {
  const values = Float32Array.from({ length: size * size }, () => Math.random() - 0.5);
  // bfloat16 is the upper half of a float32.
  const bits = Uint16Array.from(new Uint32Array(values.buffer), (word) => word >>> 16);
  return filledTensor('bfloat16', [size, size], (values) => values.set(bits));
}
