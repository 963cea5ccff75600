export { type Scalar, type Tensor, type Tensor1D, type Tensor2D, type Tensor3D, type Tensor4D, tf } from './tf.ts';
export { backendInfo, bfloat16Tensor, installAddon, numDeviceTensors, rawOp } from './backend.ts';
export { compile, type CompileOptions } from './compile/compile.ts';
export { compileVjp, type CompiledVjp, type ResidualPolicy, type VjpOptions } from './compile/compile-vjp.ts';
export type { MatmulPrecision } from './compile/trace.ts';
export type { Tree } from './compile/tree.ts';
