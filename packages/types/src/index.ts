/** Zod schemas, types and codecs of every Tinker API message. */
export * from './adam-params.ts';
export * from './api-error.ts';
export * from './audit.ts';
export * from './auth.ts';
export * from './billing.ts';
export * from './capabilities.ts';
export * from './checkpoint.ts';
export * from './checkpoint-path.ts';
export * from './chunks/dmel.ts';
export * from './chunks/encoded-text.ts';
export * from './chunks/image.ts';
export * from './chunks/image-asset-pointer.ts';
export * from './chunks/model-input-chunk.ts';
export * from './client-config.ts';
export * from './codec/forward-backward-json.ts';
export * from './codec/forward-backward-output.ts';
export {
  type DecodedChunk,
  type DecodedDatum,
  type DecodedForwardBackwardRequest,
  decodeForwardBackwardRequest,
  encodeForwardBackwardRequest,
  type ForwardBackwardSubmission,
  joinTokens,
} from './codec/forward-backward-request.ts';
export * from './codec/sample-response.ts';
export { MASK_LOGPROB, type TopkMatrix, type TopkRow, topkRows } from './codec/topk.ts';
export * from './codec/wire-format-error.ts';
export * from './create-model.ts';
export * from './cursor.ts';
export * from './custom-loss.ts';
export * from './datum.ts';
export * from './forward-backward-input.ts';
export * from './forward-backward-output.ts';
export * from './forward-backward-request.ts';
export * from './future.ts';
export * from './get-info.ts';
export * from './ids.ts';
export * from './integers.ts';
export * from './listing-query.ts';
export * from './lora-config.ts';
export * from './loss-fn.ts';
export * from './model-input.ts';
export * from './optim-step.ts';
export * from './optimizer-config.ts';
export * from './provenance-span.ts';
export * from './sample-request.ts';
export * from './sample-response.ts';
export * from './sampling-params.ts';
export * from './sampling-session.ts';
export * from './session.ts';
export * from './session-search.ts';
export * from './session-status.ts';
export * from './telemetry/batch.ts';
export * from './telemetry/events.ts';
export * from './telemetry/severity.ts';
export { type DenseTensor, type NestedArray, nestedShape, type TypedValues } from './tensor-convert.ts';
export * from './tensor-data.ts';
export * from './tensor-dtype.ts';
export * from './timestamp.ts';
export * from './training-run.ts';
export * from './unload-model.ts';
export * from './weights.ts';
export * from './wire.ts';
