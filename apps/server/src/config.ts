/** Every setting of the server: what it does, its default, what is allowed. One flat object: flags, environment variables
 * and configuration files map onto it key by key. */
import * as z from 'zod';

/** A base model: the name that users pass, and the checkpoint folder behind it. */
export const ServedModel = z.strictObject({
  name: z.string().min(1).describe('Name that users pass as base_model'),
  folder: z.string().min(1).describe('Folder with config.json, safetensors and tokenizer files'),
  tokenizer: z
    .string()
    .min(1)
    .optional()
    .describe('Hub name or path from which clients load the tokenizer; default: the name'),
});

export type ServedModel = z.infer<typeof ServedModel>;

/** Whether experts' adapters share a side. */
export const LoraExperts = z.enum(['each', 'shared']);

export type LoraExperts = z.infer<typeof LoraExperts>;

export const ServerConfig = z.strictObject({
  host: z.string().min(1).default('127.0.0.1').describe('Address to listen on; 0.0.0.0 is every interface'),
  port: z.int().min(0).max(65_535).default(8123).describe('Port to listen on; 0 picks a free one'),
  publicUrl: z
    .url()
    .optional()
    .describe('Base URL under which clients reach this server; written into download links'),
  dataDir: z.string().min(1).default('./anneal-data').describe('Folder for the database and checkpoints'),
  assetsDir: z
    .string()
    .min(1)
    .optional()
    .describe(
      'Folder of images that requests may name by their path in it; every owner may read all of them',
    ),
  models: z.array(ServedModel).min(1).describe('Base models to serve'),
  aliases: z
    .record(z.string(), z.string())
    .default({})
    .describe('Further names of served models: alias to model name'),
  precision: z
    .enum(['auto', 'fp32', 'bf16', 'int8'])
    .default('auto')
    .describe(
      'How base weights are kept: as the checkpoint has them, in fp32, in bf16 with bf16 products where the device has them, or in 8 bits',
    ),
  modelMemoryMiB: z
    .int()
    .min(0)
    .max(1_000_000_000)
    .default(0)
    .describe(
      'Memory for base weights, in MiB: for another model, those without work for longest are unloaded; 0 is no limit',
    ),
  loadAtStart: z
    .enum(['first', 'all'])
    .default('first')
    .describe(
      'Models that are loaded at the start: the first alone, or as many as there is memory for; others, when they are needed',
    ),
  loraAlpha: z
    .number()
    .positive()
    .max(65_536)
    .default(32)
    .describe('LoRA alpha of new models; the adapter is scaled by alpha / rank'),
  loraExperts: LoraExperts.default('each').describe(
    'Adapters of experts in new models: of each its own, or one A of gate and up and one B of down for all (shared)',
  ),
  lossModules: z
    .array(z.string())
    .default([])
    .describe('JavaScript modules whose exported losses are added to the built-in ones'),

  apiKey: z
    .string()
    .startsWith('tml-', 'an API key must start with tml-, or clients refuse it')
    .min(12)
    .optional()
    .describe('A key that is accepted besides the stored ones')
    .meta({ secret: true }),
  databaseUrl: z
    .string()
    .regex(/^postgres(ql)?:\/\//, 'must be a postgres:// URL')
    .optional()
    .describe('PostgreSQL database; without it, a SQLite file in dataDir')
    .meta({ secret: true }),
  blobStore: z
    .enum(['fs', 's3'])
    .default('fs')
    .describe('Where checkpoint files go: dataDir or an S3 bucket'),
  s3Bucket: z.string().optional().describe('Bucket for checkpoint files, with blobStore s3'),
  s3Prefix: z.string().default('').describe('Prefix of all keys in the bucket'),
  s3Endpoint: z.url().optional().describe('URL of an S3-compatible service; absent: AWS'),
  s3Region: z.string().default('us-east-1').describe('Region of the bucket'),

  bodyLimitMiB: z.int().min(64).max(2047).default(512).describe('Largest request body, in MiB'),
  maxConnections: z
    .int()
    .min(1)
    .max(1_000_000)
    .default(20_000)
    .describe('Open connections; each waiting result holds one'),
  rateLimitPerMinute: z
    .int()
    .min(0)
    .max(10_000_000)
    .default(0)
    .describe('Requests per minute and API key; 0 is no limit'),
  maxModelsPerOwner: z
    .int()
    .min(0)
    .max(1_000_000)
    .default(0)
    .describe('Live training models per owner; 0 is no limit'),
  maxPendingSamples: z
    .int()
    .min(1)
    .max(10_000_000)
    .default(20_000)
    .describe('Samples under way before clients are told to slow down'),

  pollSeconds: z
    .number()
    .min(1)
    .max(40)
    .default(25)
    .describe('How long a request for an unfinished result is held open'),
  metadataThresholdKiB: z
    .int()
    .min(1)
    .max(1_048_576)
    .default(1024)
    .describe('Results above this size are announced before they are sent, if the client allows'),
  resultKeepMinutes: z
    .number()
    .min(1)
    .max(10_080)
    .default(10)
    .describe('How long a result stays readable after it was read'),
  resultMaxHours: z
    .number()
    .min(1)
    .max(720)
    .default(24)
    .describe('How long a result that nobody reads is kept'),
  gapSeconds: z
    .number()
    .min(1)
    .max(86_400)
    .default(300)
    .describe('How long requests wait for a missing sequence number before they fail'),
  sessionSilenceSeconds: z
    .number()
    .min(60)
    .max(604_800)
    .default(900)
    .describe('Silence of a client after which its models are stored and freed'),

  drainSeconds: z
    .number()
    .min(0)
    .max(3600)
    .default(30)
    .describe('How long a shutdown waits for requests that run'),
  journalSeconds: z
    .number()
    .min(0)
    .max(86_400)
    .default(60)
    .describe('Shortest time between two stored copies of a model in training; 0 stores every step'),
  snapshotKeepHours: z
    .number()
    .min(1)
    .max(8760)
    .default(168)
    .describe('How long the stored copy of an unused model is kept'),
  samplerKeepHours: z
    .number()
    .min(1)
    .max(8760)
    .default(24)
    .describe('How long the weights of an unused sampler are kept'),
  samplersPerSession: z
    .int()
    .min(1)
    .max(100_000)
    .default(64)
    .describe('Unnamed samplers whose weights a session keeps; the longest unused ones expire'),
  maxOpenSamplers: z
    .int()
    .min(1)
    .max(10_000)
    .default(64)
    .describe('Samplers held in memory; the longest unused one gives way'),
  downloadMinutes: z.number().min(6).max(10_080).default(60).describe('How long a download link works'),
  logLevel: z
    .enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'])
    .default('info')
    .describe('What is written to the log'),
  docs: z.boolean().default(true).describe('Serve the API documentation at /docs'),
  console: z.boolean().default(true).describe('Serve the web console at /'),
  metrics: z
    .enum(['off', 'on'])
    .default('on')
    .describe('Serve measurements for Prometheus at /metrics, to those with a key'),
  metricsKey: z
    .string()
    .min(12)
    .optional()
    .describe('A key for /metrics alone, which shows the use of every owner; API keys show that of their own')
    .meta({ secret: true }),
  metricSteps: z
    .int()
    .min(0)
    .max(1_000_000)
    .default(5000)
    .describe('Steps whose metrics are kept per run, of longer runs a selection; 0 records none'),
  metricKeepDays: z
    .number()
    .min(1)
    .max(3650)
    .default(90)
    .describe('How long metrics of unused runs and daily usage are kept'),
  rolloutsPerSession: z
    .int()
    .min(0)
    .max(100_000)
    .default(200)
    .describe('Sampling requests kept with their text per session, for the console; 0 records none'),
  rolloutKeepHours: z
    .number()
    .min(0.1)
    .max(8760)
    .default(24)
    .describe('How long recorded sampling requests are kept'),
});

/** A complete, checked configuration. */
export type ServerConfig = z.infer<typeof ServerConfig>;

/** What a caller may leave out. */
export type ServerConfigInput = z.input<typeof ServerConfig>;
