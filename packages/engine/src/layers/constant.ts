import { type Tensor, tf } from '@anneal/tensorflow';

/**
 * The result of `compute` as a constant: tfjs neither differentiates it nor asks its ops for gradients, which choices and
 * comparisons do not have. It records nothing inside a custom gradient, and one without inputs has nothing to be
 * differentiated by.
 */
export function constant(compute: () => Tensor): Tensor {
  const withoutInputs = tf.customGrad(() => ({ value: compute(), gradFunc: () => [] }));
  return withoutInputs();
}
