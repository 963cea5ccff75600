/** Replacements for tfjs-node kernels that read values on the host, which neither a trace nor a busy GPU can afford. */
import type { NativeBinding, OpAttr } from './binding.ts';
import { type Tensor, tf } from './tf.ts';

interface Backend {
  binding: NativeBinding;
  executeSingleOutput(op: string, attrs: OpAttr[], inputs: Tensor[]): Tensor;
}

const DTYPE_CODE: Record<string, number> = { float32: 1, int32: 3, bool: 10 };

/** Gather without upstream's check of every index on the host; TensorFlow's CPU kernel checks them itself. */
export function replaceKernels(): void {
  tf.unregisterKernel('GatherV2', 'tensorflow');
  tf.registerKernel({
    kernelName: 'GatherV2',
    backendName: 'tensorflow',
    kernelFunc: ({ inputs, attrs, backend }) => {
      const { binding, executeSingleOutput } = backend as Backend;
      const x = inputs.x as Tensor;
      const indices = inputs.indices as Tensor;
      const { axis, batchDims } = attrs as unknown as { axis: number; batchDims: number };
      const type = (name: string, dtype: string): OpAttr => ({
        name,
        type: binding.TF_ATTR_TYPE,
        value: DTYPE_CODE[dtype],
      });
      const axisTensor = tf.scalar(axis, 'int32');
      const opAttrs = [
        { name: 'batch_dims', type: binding.TF_ATTR_INT, value: batchDims },
        type('Tparams', x.dtype),
        type('Tindices', indices.dtype),
        type('Taxis', 'int32'),
      ];
      const result = executeSingleOutput.call(backend, 'GatherV2', opAttrs, [x, indices, axisTensor]);
      axisTensor.dispose();
      return result;
    },
  });
}
