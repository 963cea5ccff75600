// The entry `@anneal/safetensors/codecs`: what needs no file system, for browsers.
export { bitsPerElement, byteLengthOf, type Dtype, isDtype } from './dtype.ts';
export { SafetensorsError, type SafetensorsErrorCode } from './errors.ts';
export { bfloat16ToFloat32, float16ToFloat32, float32ToBfloat16, float32ToFloat16 } from './float-codecs.ts';
export { encodeHeader, type Header, parseHeader, type TensorEntry, type TensorInfo } from './header.ts';
export { type FloatDtype, isFloatDtype, widenToFloat32 } from './widen.ts';
