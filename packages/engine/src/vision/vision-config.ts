/** Reading `vision_config` of config.json: the tower that Qwen3-VL and Qwen3.5 have in common. */
import { z } from 'zod';
import { parseDecoderJson, unsupported } from '../models/config.ts';
import type { WeightSource } from '../models/weight-source.ts';

export interface VisionConfig {
  /** What names of the tower's tensors begin with. */
  root: string;
  /** The token id that stands for each of an image's features in a sequence. */
  imageTokenId: number;
  numBlocks: number;
  numHeads: number;
  hiddenSize: number;
  /** Sides of a patch in pixels, and frames of one: an image is repeated that often. */
  patchSize: number;
  temporalPatchSize: number;
  /** So many patches to a side become one feature. */
  mergeSize: number;
  /** Learned position embeddings along each side of their square. */
  positionsPerSide: number;
  ropeTheta: number;
  /** Blocks after which features are also taken for the first layers of the language model, in ascending order. */
  deepstack: number[];
}

/** How a tensor of the tower is kept: what is no plain matrix, and small, in float32 whatever the precision. */
export function towerSource({ root }: VisionConfig, name: string): WeightSource {
  const isWide = ['patch_embed.', 'pos_embed.'].some((part) => name.startsWith(`${root}.${part}`));
  return isWide ? { wide: name } : name;
}

const count = z.number().int().positive();

const VisionJson = z.looseObject({
  depth: count.default(27),
  hidden_size: count.default(1152),
  hidden_act: z.literal('gelu_pytorch_tanh').default('gelu_pytorch_tanh'),
  num_heads: count.default(16),
  in_channels: z.literal(3).default(3),
  patch_size: count.default(16),
  spatial_merge_size: count.default(2),
  temporal_patch_size: count.default(2),
  out_hidden_size: count.default(3584),
  num_position_embeddings: count.default(2304),
  deepstack_visual_indexes: z.array(z.number().int().min(0)).nullish(),
  rope_parameters: z
    .looseObject({ rope_type: z.literal('axial').optional(), rope_theta: z.number().positive().optional() })
    .nullish(),
});

const OuterJson = z.looseObject({
  vision_config: VisionJson.optional(),
  image_token_id: z.number().int().min(0).optional(),
});

/**
 * The tower that a config.json describes; undefined where it describes none.
 * @param hiddenSize The language model's, which features must have.
 * @param options.deepstack Blocks that are taken where the file does not say; undefined: the family has none.
 * @throws EngineError (user) naming the field that is wrong or unsupported.
 */
export function visionConfig(
  json: unknown,
  hiddenSize: number,
  options: { imageTokenId: number; deepstack: number[] | undefined },
): VisionConfig | undefined {
  const { vision_config: vision, image_token_id: imageTokenId } = parseDecoderJson(json, OuterJson);
  if (!vision) return undefined;
  const side = Math.round(Math.sqrt(vision.num_position_embeddings));
  if (side * side !== vision.num_position_embeddings)
    throw unsupported('vision_config.num_position_embeddings', vision.num_position_embeddings, 'a square');
  if (vision.out_hidden_size !== hiddenSize)
    throw unsupported('vision_config.out_hidden_size', vision.out_hidden_size, `hidden_size, ${hiddenSize}`);
  if (vision.hidden_size % (4 * vision.num_heads) !== 0)
    throw unsupported('vision_config.num_heads', vision.num_heads, 'heads of a multiple of four dimensions');
  const deepstack = vision.deepstack_visual_indexes ?? options.deepstack ?? [];
  if (!options.deepstack && deepstack.length > 0)
    throw unsupported('vision_config.deepstack_visual_indexes', deepstack, 'an empty list');
  if (deepstack.some((block, i) => block >= vision.depth || block <= (deepstack[i - 1] ?? -1)))
    throw unsupported(
      'vision_config.deepstack_visual_indexes',
      deepstack,
      `ascending blocks below ${vision.depth}`,
    );
  return {
    root: 'model.visual',
    imageTokenId: imageTokenId ?? options.imageTokenId,
    numBlocks: vision.depth,
    numHeads: vision.num_heads,
    hiddenSize: vision.hidden_size,
    patchSize: vision.patch_size,
    temporalPatchSize: vision.temporal_patch_size,
    mergeSize: vision.spatial_merge_size,
    positionsPerSide: side,
    ropeTheta: vision.rope_parameters?.rope_theta ?? 10_000,
    deepstack,
  };
}
