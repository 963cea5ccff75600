/** What PEFT's `adapter_config.json` may say for an adapter to equal one of ours, and refusals of the rest. */
import { z } from 'zod';
import { EngineError } from '../engine.ts';

/** Keys that say where an adapter comes from or how it was trained, not what it computes. */
const SILENT = new Set([
  'auto_mapping',
  'base_model_name_or_path',
  'ephemeral_gpu_offload',
  'exclude_modules',
  'inference_mode',
  'layers_pattern',
  // Which modules there are is read from the tensors.
  'layers_to_transform',
  'loftq_config',
  'lora_dropout',
  'megatron_config',
  'megatron_core',
  'peft_version',
  'qalora_group_size',
  'revision',
  'runtime_config',
  'target_modules',
  'target_parameters',
  'task_type',
]);

/** Starts that change the base weights too; the adapter then belongs to those. */
const CHANGES_BASE = /^(pissa|olora|loftq|corda|lora_ga)/i;

/** Maps of several adapters beside each other, which PEFT knows as one: how many times the rank they may have. */
const MULTIPLES: Record<string, number> = { 'experts.gate_up_proj': 2, in_proj_qkv: 3 };

const Fields = z.looseObject({
  peft_type: z.literal('LORA', 'only LORA can be imported'),
  r: z.int().positive(),
  lora_alpha: z.number().positive(),
  use_rslora: z.boolean().nullish(),
  init_lora_weights: z
    .union([z.boolean(), z.string()])
    .nullish()
    .refine((way) => typeof way !== 'string' || !CHANGES_BASE.test(way), {
      error: ({ input }) =>
        `"${input}" changes the base weights too; convert the adapter with PEFT's path_initial_model_for_weight_conversion`,
    }),
  bias: z.literal('none', 'only "none" can be imported: biases are not trained here').nullish(),
  use_dora: z.literal(false, 'DoRA cannot be imported: it also scales the base weights').nullish(),
  modules_to_save: z
    .array(z.string())
    .max(0, 'whole modules cannot be imported: base weights are frozen')
    .nullish(),
  rank_pattern: pattern('one rank holds for all modules'),
  alpha_pattern: pattern('one alpha holds for all modules'),
});

const PeftConfig = Fields.superRefine((config, context) => {
  const unknown = Object.entries(config).filter(([key]) => !SILENT.has(key) && !(key in Fields.shape));
  for (const [key, value] of unknown) {
    if (isNeutral(value)) continue;
    context.addIssue({ code: 'custom', path: [key], message: 'it cannot be imported', input: value });
  }
  for (const [key, multiple] of Object.entries(MULTIPLES)) {
    const [rank = config.r, alpha = config.lora_alpha] = [
      config.rank_pattern?.[key],
      config.alpha_pattern?.[key],
    ];
    if (rank !== config.r && rank !== multiple * config.r) {
      const message = `${key} must be r, ${config.r}, or ${multiple} times as much`;
      context.addIssue({ code: 'custom', path: ['rank_pattern'], message, input: rank });
    } else if (scale(config, rank, alpha) !== scale(config, config.r, config.lora_alpha)) {
      const message = `${key} must have the scale of the other modules`;
      context.addIssue({ code: 'custom', path: ['alpha_pattern'], message, input: alpha });
    }
  }
});

function scale({ use_rslora }: { use_rslora?: boolean | null }, rank: number, alpha: number): number {
  return use_rslora ? alpha / Math.sqrt(rank) : alpha / rank;
}

function pattern(reason: string) {
  return z
    .record(z.string(), z.number())
    .nullish()
    .refine(
      (given) => Object.keys(given ?? {}).every((key) => key in MULTIPLES),
      `it must be empty: ${reason}`,
    );
}

function isNeutral(value: unknown): boolean {
  if (typeof value === 'object' && value !== null) return Object.keys(value).length === 0;
  return value === null || value === false || value === 0 || value === '';
}

/**
 * Rank and alpha of an adapter trained with PEFT, and ranks that modules have instead, by the end of their path.
 *
 * @param text The content of `adapter_config.json`.
 * @throws EngineError (user) that names each key that our LoRA has no equal for.
 */
export function readPeftConfig(text: string): {
  rank: number;
  alpha: number;
  ranks: Record<string, number>;
} {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new EngineError('user', `adapter_config.json is no JSON: ${(cause as Error).message}`, { cause });
  }
  const parsed = PeftConfig.safeParse(json);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(
      ({ path, message }) => `${path.join('.') || 'all of it'}: ${message}`,
    );
    throw new EngineError('user', `adapter_config.json: ${problems.join('; ')}`);
  }
  const { r, lora_alpha: alpha, use_rslora: isRankStabilised, rank_pattern: ranks } = parsed.data;
  // rsLoRA scales by alpha / √r (Kalajdzievski, arXiv 2312.03732), LoRA by alpha / r.
  return { rank: r, alpha: isRankStabilised ? alpha * Math.sqrt(r) : alpha, ranks: ranks ?? {} };
}
