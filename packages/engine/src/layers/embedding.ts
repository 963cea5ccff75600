import { type Tensor, tf } from '@anneal/tensorflow';

/**
 * Rows of an embedding table.
 * @param ids int32 [batch, time]
 * @param table [vocab, hidden]
 * @param scale What some families multiply embeddings by; 1 for none
 * @returns [batch, time, hidden]
 */
export function embed(ids: Tensor, table: Tensor, scale: number): Tensor {
  const x = tf.gather(table, ids as never);
  return scale === 1 ? x : tf.mul(x, scale);
}
