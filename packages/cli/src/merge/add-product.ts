/** The arithmetic of merging: W + scale · B·A, in the dtype of W. */
import { type FloatDtype, float32ToBfloat16, float32ToFloat16, type TensorData } from '@anneal/safetensors';

export interface Product {
  /** [rank, in] */
  a: Float32Array;
  /** [out, rank] */
  b: Float32Array;
  rank: number;
  scale: number;
}

/** Adds scale · B·A to `weight` [out, in] in place. Sums of a row are in float64, and rounded once. */
export function addProduct(weight: Float32Array, { a, b, rank, scale }: Product): void {
  const inFeatures = a.length / rank;
  const row = new Float64Array(inFeatures);
  for (let out = 0; out < b.length / rank; out++) {
    row.fill(0);
    for (let k = 0; k < rank; k++) {
      const factor = scale * b[out * rank + k]!;
      const start = k * inFeatures;
      for (let i = 0; i < inFeatures; i++) row[i]! += factor * a[start + i]!;
    }
    const start = out * inFeatures;
    for (let i = 0; i < inFeatures; i++) weight[start + i]! += row[i]!;
  }
}

/** Values rounded to nearest in the dtype. */
export function narrow(dtype: FloatDtype, values: Float32Array): TensorData {
  switch (dtype) {
    case 'F32':
      return values;
    case 'F64':
      return Float64Array.from(values);
    case 'F16':
      return float32ToFloat16(values);
    case 'BF16':
      return float32ToBfloat16(values);
  }
}
