/** OpenTelemetry's standard environment variables, as far as they concern traces; what is not honoured is refused. */
import * as z from 'zod';
import { StartError } from '../start-error.ts';

const milliseconds = z.coerce.number().int().min(1).optional();
const count = z.coerce.number().int().min(1).optional();
const protocol = z.enum(['http/protobuf'], 'only "http/protobuf" is supported').optional();

/** Names as in https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. */
const Environment = z.object({
  OTEL_SDK_DISABLED: z.string().optional(),
  OTEL_TRACES_EXPORTER: z.enum(['otlp', 'none'], 'only "otlp" and "none" are supported').default('otlp'),
  OTEL_EXPORTER_OTLP_ENDPOINT: z.url().optional(),
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: z.url().optional(),
  OTEL_EXPORTER_OTLP_PROTOCOL: protocol,
  OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: protocol,
  OTEL_PROPAGATORS: z
    .string()
    .regex(/^(tracecontext|baggage)(,(tracecontext|baggage))*$/, 'only "tracecontext" is supported')
    .optional(),
  OTEL_TRACES_SAMPLER: z
    .enum([
      'always_on',
      'always_off',
      'traceidratio',
      'parentbased_always_on',
      'parentbased_always_off',
      'parentbased_traceidratio',
    ])
    .default('parentbased_always_on'),
  OTEL_TRACES_SAMPLER_ARG: z.coerce.number().min(0).max(1).default(1),
  OTEL_BSP_SCHEDULE_DELAY: milliseconds,
  OTEL_BSP_EXPORT_TIMEOUT: milliseconds,
  OTEL_BSP_MAX_QUEUE_SIZE: count,
  OTEL_BSP_MAX_EXPORT_BATCH_SIZE: count,
});

export type TracingSettings = z.infer<typeof Environment>;

/**
 * How traces are sent; undefined: they are off, as no endpoint is named.
 *
 * @throws StartError that names the variable
 */
export function tracingSettings(env: NodeJS.ProcessEnv): TracingSettings | undefined {
  // By the specification, an empty variable is one that is not set.
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''));
  const endpoint = given.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT ?? given.OTEL_EXPORTER_OTLP_ENDPOINT;
  if (endpoint === undefined || given.OTEL_SDK_DISABLED?.toLowerCase() === 'true') return undefined;
  const parsed = Environment.safeParse(given);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const name = String(issue?.path[0]);
    throw new StartError(`${name}: ${issue?.message} (got ${JSON.stringify(given[name])})`);
  }
  return parsed.data.OTEL_TRACES_EXPORTER === 'none' ? undefined : parsed.data;
}
