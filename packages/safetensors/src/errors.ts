/** What is wrong with a file: stable codes for programs, messages for people. */
export type SafetensorsErrorCode =
  | 'file_not_found'
  | 'truncated'
  | 'header_too_large'
  | 'header_not_json'
  | 'header_invalid'
  | 'duplicate_tensor'
  | 'unknown_dtype'
  | 'size_mismatch'
  | 'offset_invalid'
  | 'index_invalid'
  | 'tensor_not_found'
  | 'dtype_unsupported'
  | 'tensor_invalid';

/** A safetensors file or checkpoint folder that cannot be read or written. The message names the file and the tensor. */
export class SafetensorsError extends Error {
  override readonly name = 'SafetensorsError';
  readonly code: SafetensorsErrorCode;
  /** Path of the file concerned. */
  readonly file: string;
  /** Name of the tensor concerned, where there is one. */
  readonly tensor: string | undefined;

  constructor(code: SafetensorsErrorCode, file: string, problem: string, tensor?: string) {
    super(tensor === undefined ? `${file}: ${problem}` : `${file}: tensor "${tensor}": ${problem}`);
    this.code = code;
    this.file = file;
    this.tensor = tensor;
  }
}
