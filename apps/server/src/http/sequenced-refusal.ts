import { BinaryReader } from '@bufbuild/protobuf/wire';
import type { FastifyRequest } from 'fastify';
import type { ApiError } from '../errors.ts';
import type { TrainingService } from '../services/training.ts';
import { bodyHash } from '../wire/body-hash.ts';

/**
 * Lets a refused training request take its number, so that the requests after it do not wait for ever. Whatever else
 * is wrong with the body: if it names a model and a number, they count.
 */
export async function consumeRefused(
  training: TrainingService,
  request: FastifyRequest,
  error: ApiError,
): Promise<void> {
  const kind = request.routeOptions.config.sequenced;
  if (kind === undefined || error.status !== 400) return;
  const { body } = request;
  const named = body instanceof Uint8Array ? namedInProtobuf(body) : namedInJson(body);
  if (!named) return;
  await training.refuse(request.owner, { kind, ...named, bodyHash: bodyHash(body) }, error);
}

function namedInJson(body: unknown): { modelId: string; seq: bigint } | undefined {
  if (typeof body !== 'object' || body === null) return undefined;
  const { model_id: modelId, seq_id: seq } = body as Record<string, unknown>;
  if (typeof modelId !== 'string') return undefined;
  const isCount = typeof seq === 'bigint' || (typeof seq === 'number' && Number.isSafeInteger(seq));
  return isCount && seq >= 0 ? { modelId, seq: BigInt(seq) } : undefined;
}

const MODEL_ID = 1;
const SEQ_ID = 2;

/** Reads the two fields as far as the bytes are readable. */
function namedInProtobuf(body: Uint8Array): { modelId: string; seq: bigint } | undefined {
  let modelId: string | undefined;
  let seq: bigint | undefined;
  try {
    const reader = new BinaryReader(body);
    while (reader.pos < reader.len && (modelId === undefined || seq === undefined)) {
      const [field, type] = reader.tag();
      if (field === MODEL_ID) modelId = reader.string();
      else if (field === SEQ_ID) seq = BigInt(reader.int32());
      else reader.skip(type, field);
    }
  } catch {
    // What was read until here counts.
  }
  return modelId !== undefined && seq !== undefined && seq >= 0n ? { modelId, seq } : undefined;
}
