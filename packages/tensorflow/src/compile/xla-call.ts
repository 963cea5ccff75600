/** How ops of our own are called from functions that XLA compiles. */
import { DataType, type NativeBinding, type OpAttr } from '../binding.ts';

/** An op to record, its inputs aside. */
export interface RecordedOp {
  op: string;
  attrs: OpAttr[];
}

/**
 * @param target The name under which the addon has registered it
 * @param config What it is told as text, since buffers come without their shapes
 * @param shape Of its one result, in float32
 */
export function xlaCall(binding: NativeBinding, target: string, config: string, shape: number[]): RecordedOp {
  const { TF_ATTR_TYPE, TF_ATTR_STRING, TF_ATTR_BOOL, TF_ATTR_SHAPE } = binding;
  return {
    op: 'XlaCustomCallV2',
    attrs: [
      { name: 'call_target_name', type: TF_ATTR_STRING, value: target },
      { name: 'backend_config', type: TF_ATTR_STRING, value: config },
      { name: 'has_side_effect', type: TF_ATTR_BOOL, value: false },
      { name: 'result_dtypes', type: TF_ATTR_TYPE, value: [DataType.float32] },
      { name: 'result_shapes', type: TF_ATTR_SHAPE, value: [shape] },
    ],
  };
}
