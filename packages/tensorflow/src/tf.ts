/**
 * The one copy of tfjs that every package uses. tfjs-node is CommonJS and keeps its state in module scope, so it is
 * required once here, and everybody imports `tf` from this package.
 */
import { createRequire } from 'node:module';
import util from 'node:util';
import type * as TfjsCore from '@tensorflow/tfjs-core';

const require = createRequire(import.meta.url);

// tfjs-node 4.22 calls functions that Node 22 warns about and Node 23 removed (fixed upstream, not released).
const legacyUtil = util as unknown as Record<string, (value: unknown) => boolean>;
legacyUtil.isNullOrUndefined = (value) => value === null || value === undefined;
legacyUtil.isArray = (value) => Array.isArray(value);

/** tfjs-core with all ops, chained methods and gradients registered. No backend is set until `loadTensorflow`. */
export const tf = require('@tensorflow/tfjs-core') as typeof TfjsCore;

export type Tensor = TfjsCore.Tensor;
export type Tensor1D = TfjsCore.Tensor1D;
export type Tensor2D = TfjsCore.Tensor2D;
export type Tensor3D = TfjsCore.Tensor3D;
export type Tensor4D = TfjsCore.Tensor4D;
export type Scalar = TfjsCore.Scalar;
