/** Cuts a batch into requests that the server takes. */
import type { ClientConfigResponse, Datum, ModelInputChunk, TensorData } from '@anneal/types';

/** Part of a batch, with the bytes it will roughly need. */
export interface BatchPart {
  data: Datum[];
  bytes: number;
}

type Limits = Pick<ClientConfigResponse, 'fwdbwd_max_chunk_len' | 'fwdbwd_max_chunk_bytes_count'>;

function chunkBytes(chunk: ModelInputChunk): number {
  switch (chunk.type) {
    case 'encoded_text':
      return 4 * chunk.tokens.length;
    case 'image':
      return chunk.data.length;
    case 'dmel':
      return chunk.dmel.length;
    case 'image_asset_pointer':
      return chunk.location.length;
  }
}

function tensorBytes(tensor: TensorData): number {
  const indices = (tensor.sparse_crow_indices?.length ?? 0) + (tensor.sparse_col_indices?.length ?? 0);
  return tensor.data.length * (tensor.dtype === 'float32' ? 4 : 8) + indices * 8;
}

/** Bytes of a datum on the wire, without the few that frame it. */
export function datumBytes(datum: Datum): number {
  const input = datum.model_input.chunks.reduce((total, chunk) => total + chunkBytes(chunk), 0);
  return Object.values(datum.loss_fn_inputs).reduce((total, tensor) => total + tensorBytes(tensor), input);
}

/** Parts in order; a datum over the limit goes alone. */
export function splitBatch(data: readonly Datum[], limits: Limits): BatchPart[] {
  const parts: BatchPart[] = [];
  for (const datum of data) {
    const bytes = datumBytes(datum);
    const part = parts.at(-1);
    const fits =
      part &&
      part.data.length < limits.fwdbwd_max_chunk_len &&
      part.bytes + bytes <= limits.fwdbwd_max_chunk_bytes_count;
    if (fits) {
      part.data.push(datum);
      part.bytes += bytes;
    } else {
      parts.push({ data: [datum], bytes });
    }
  }
  return parts;
}
