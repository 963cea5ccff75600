import * as z from 'zod';

/** A base model that the server offers. */
export const SupportedModel = z
  .object({
    model_name: z.string().nullish(),
    /** In tokens, prompt and completion together. */
    max_context_length: z.int().nullish(),
    trainable: z.boolean().nullish(),
    sampleable: z.boolean().nullish(),
  })
  .meta({ id: 'SupportedModel' });

export type SupportedModel = z.infer<typeof SupportedModel>;

export const GetServerCapabilitiesResponse = z
  .object({ supported_models: z.array(SupportedModel) })
  .meta({ id: 'GetServerCapabilitiesResponse' });

export type GetServerCapabilitiesResponse = z.infer<typeof GetServerCapabilitiesResponse>;

export const HealthResponse = z.object({ status: z.literal('ok') }).meta({ id: 'HealthResponse' });

export type HealthResponse = z.infer<typeof HealthResponse>;
