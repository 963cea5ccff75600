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
