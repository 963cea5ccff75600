import * as z from 'zod';

/** A model, which is a training run: `{session_id}:train:{model_seq_id}`. */
export const ModelId = z.string().min(1, 'model_id must not be empty');

export type ModelId = z.infer<typeof ModelId>;

/** A submitted request whose result is fetched later. */
export const RequestId = z.string().min(1, 'request_id must not be empty');

export type RequestId = z.infer<typeof RequestId>;

/** A model's id; clients build it themselves after creating a model from a checkpoint. */
export function formatModelId(sessionId: string, modelSeqId: number): string {
  return `${sessionId}:train:${modelSeqId}`;
}

/** A sampler's id. */
export function formatSamplerId(sessionId: string, samplingSessionSeqId: number): string {
  return `${sessionId}:sample:${samplingSessionSeqId}`;
}

/** What an id of a session's part says. */
export interface SessionPart {
  sessionId: string;
  kind: 'train' | 'sample';
  seqId: number;
}

/** Reads `{session}:train:{n}` and `{session}:sample:{n}`; `undefined` for anything else. */
export function parseSessionPart(id: string): SessionPart | undefined {
  const match = /^(?<session>.+):(?<kind>train|sample):(?<seq>0|[1-9]\d{0,15})$/s.exec(id);
  const { session, kind, seq } = match?.groups ?? {};
  if (session === undefined || seq === undefined) return undefined;
  const seqId = Number(seq);
  if (!Number.isSafeInteger(seqId)) return undefined;
  return { sessionId: session, kind: kind === 'train' ? 'train' : 'sample', seqId };
}
