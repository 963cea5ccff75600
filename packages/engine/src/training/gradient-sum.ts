import { compile, type Tensor, tf } from '@anneal/tensorflow';

const sum = compile('gradient_sum', ({ a, b }: { a: Tensor[]; b: Tensor[] }) => ({
  sum: a.map((t, i) => tf.add(t, b[i]!)),
}));

/** Adds gradients to an accumulated list and frees both; with nothing accumulated, the gradients become it. */
export function addInto(accumulated: Tensor[] | undefined, grads: Tensor[]): Tensor[] {
  if (!accumulated) return grads;
  const next = sum({ a: accumulated, b: grads }).sum;
  tf.dispose([...accumulated, ...grads]);
  return next;
}
