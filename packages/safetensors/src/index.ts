export { bitsPerElement, byteLengthOf, type Dtype, isDtype } from './dtype.ts';
export { SafetensorsError, type SafetensorsErrorCode } from './errors.ts';
export {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32IntoBfloat16,
  float32ToBfloat16,
  float32ToFloat16,
} from './float-codecs.ts';
export type { TensorInfo } from './header.ts';
export { openSafetensors, type SafetensorsReader } from './read.ts';
export { type FloatDtype, isFloatDtype, widenToFloat32 } from './widen.ts';
export { type TensorData, type TensorToWrite, writeSafetensors } from './write.ts';
