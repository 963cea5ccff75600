export { annealCacheDir } from './cache-folder.ts';
export { DiskFullError, ModelNotFoundError, type ModelSource, type SourceAttempt } from './errors.ts';
export { type ConvertProgress, convertGguf } from './gguf/convert-gguf.ts';
export { GgufError } from './gguf/errors.ts';
export { inspectModel, type ModelDescription } from './inspect-model.ts';
export { formatBytes, type OnProgress, type ProgressEvent } from './progress.ts';
export { type ResolvedModel, type ResolveOptions, resolveModel } from './resolve-model.ts';
