export { nativeAdamStep, nativeSquaredNorm } from './adamw.ts';
export {
  backendInfo,
  deviceDtype,
  installAddon,
  numDeviceTensors,
  rawOp,
  setTensorflowDefaults,
  statelessUniform,
  upload,
} from './backend.ts';
export { multipliesBfloat16 } from './bfloat16.ts';
export type { FusedHeadResults } from './binding.ts';
export { type CachedAttentionInputs, cachedAttention } from './cached-attention.ts';
export { type CompileOptions, compile } from './compile/compile.ts';
export { type CompiledVjp, compileVjp, type ResidualPolicy, type VjpOptions } from './compile/compile-vjp.ts';
export type { MatmulPrecision } from './compile/trace.ts';
export type { Tree } from './compile/tree.ts';
export type { Check } from './doctor/checks.ts';
export {
  type CpuReport,
  describeCpu,
  describeMemory,
  type GpuReport,
  type MemoryReport,
} from './doctor/devices.ts';
export { type DoctorReport, doctor } from './doctor/doctor.ts';
export { formatDoctorReport } from './doctor/format.ts';
export { filledTensor, type Storage, type StoredValues, storedShape } from './filled-tensor.ts';
export { type FusedHeadInputs, fusedHead } from './fused-head.ts';
export {
  type FusedLayersInputs,
  fusedLayers,
  layerWeightIds,
} from './fused-layers.ts';
export { gatherRows, type RowStorage } from './gather-rows.ts';
export { type GroupedMatMulOptions, groupedMatMul } from './grouped-matmul.ts';
export { annealCacheDir } from './install/cache-dir.ts';
export { type TensorflowSetupCode, TensorflowSetupError } from './install/errors.ts';
export { type PreparedTensorflow, type PrepareOptions, prepareTensorflow } from './install/prepare.ts';
export {
  type OnSetupProgress,
  type SetupProgress,
  type SetupStep,
  terminalProgress,
} from './install/progress.ts';
export { type Device, TENSORFLOW_VERSION } from './install/wheel-plan.ts';
export { quantiseRows, quantiseRowsInto, SCALE_BYTES } from './int8.ts';
export { type AdapterToKeep, dropAdapter, keepAdapter } from './kept-adapters.ts';
export { loadTensorflow } from './load.ts';
export { canCallNatively } from './native-calls.ts';
export {
  type Profile,
  profiled,
  type Span,
  type SpanCategory,
  startProfile,
  stopProfile,
} from './profile.ts';
export {
  type Scalar,
  type Tensor,
  type Tensor1D,
  type Tensor2D,
  type Tensor3D,
  type Tensor4D,
  tf,
} from './tf.ts';
export { type TrainingHeadInputs, trainingHead } from './training-head.ts';
export { type TrainingLayerInputs, trainingBackward, trainingForward } from './training-layer.ts';
export { triangularSolve } from './triangular-solve.ts';
