/** TypeScript client for the Tinker API. */
export * from '@anneal/types';
export { AdminClient, type AuditEventType } from './admin-client.ts';
export { APIFuture, type FutureContext, type FutureOptions, type ResultOptions } from './core/api-future.ts';
export * from './core/errors.ts';
export type { ClientOptions, Logger, QueueStateEvent } from './core/options.ts';
export { eachItem, type PageOptions } from './core/pagination.ts';
export type { RetryConfig } from './core/retry.ts';
export type { CustomLossFn, CustomLossResult, Logprobs, LossHandle } from './custom-loss.ts';
export type { SamplingRetryConfig } from './internal/sample-runner.ts';
export type { Telemetry } from './internal/telemetry.ts';
export * from './renderers/chat.ts';
export { RestClient, type ScopeOptions } from './rest-client.ts';
export {
  type SampleOptions,
  type SamplerSource,
  SamplingClient,
  type SamplingClientOptions,
} from './sampling-client.ts';
export {
  type FromStateOptions,
  type LoraTrainingOptions,
  ServiceClient,
  type ServiceClientOptions,
} from './service-client.ts';
export { loadTokenizer, type TokenizerOptions, tokenizerRepository } from './tokenizer.ts';
export { type CallOptions, TrainingClient } from './training-client.ts';
export { SDK_VERSION } from './version.ts';
