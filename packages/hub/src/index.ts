export { annealCacheDir } from './cache-folder.ts';
export {
  DiskFullError,
  HubPushError,
  ModelNotFoundError,
  type ModelSource,
  type SourceAttempt,
} from './errors.ts';
export { type ConvertProgress, convertGguf } from './gguf/convert-gguf.ts';
export { GgufError } from './gguf/errors.ts';
export { inspectModel, type ModelDescription } from './inspect-model.ts';
export { type FetchedModel, listFetchedModels } from './list-models.ts';
export { formatBytes, type OnProgress, type ProgressEvent } from './progress.ts';
export { type Pushed, type PushRequest, pushFiles } from './push-files.ts';
export { type ResolvedModel, type ResolveOptions, resolveModel } from './resolve-model.ts';
