/** No option is accepted and ignored: each field of each request has a test that shows its effect or its refusal. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import * as z from 'zod';
import { onEachDatabase, type TestServer } from './harness.ts';

/** Fields by pattern, each with the title of the test that holds it. */
const SHOWN: [fields: RegExp, title: string][] = [
  [/ type$/, 'no input makes a 5xx or leaves anything behind, and everything works afterwards'],
  [/ (model_id|seq_id)$/, '3: requests run by number, not in order of arrival'],
  [/ user_metadata$/, 'a session keeps its tags, names and metadata'],
  [/ ttl_seconds$/, 'samplers and exports take an expiry and metadata too'],
  [/ weights_access_token$/, 'an access token is refused, not ignored'],
  [
    /chunks\[\]\.(format|location|expected_tokens|data|dmel)$/,
    'what a sample cannot be is refused at once, naming field and value',
  ],
  [
    / (limit|offset|access_scope)$/,
    'lists go by limit and offset, and nobody else’s sessions are accessible',
  ],
  [/client\/\w+ sdk_version$/, '2: client/config exists'],
  [/telemetry /, '22: telemetry is accepted'],
  [
    /create_session (tags|sdk_version|project_id|display_name)$/,
    'a session keeps its tags, names and metadata',
  ],
  [
    /(session_heartbeat session_id|finish (reason|reason\.type|detail))$/,
    'the end of a session fails what waits, frees its models and refuses new work',
  ],
  [
    /sessions\/search (session_id|project_ids|display_name|owner|statuses|limit|cursor)/,
    'the search finds by name, metadata, project and status, in pages',
  ],
  [/project project_id$/, 'a session moves to another project together with its runs'],
  [/create_model (session_id|model_seq_id)$/, '15: model ids are {session}:train:{n}, also after a load'],
  [
    /create_model (base_model|optimizer_config.*)$/,
    'what cannot be made is refused at once, or fails its future, naming field and value',
  ],
  [/create_model lora_config/, 'every option of a model reaches the engine'],
  [
    /load_weights (session_id|model_seq_id|path|optimizer)$/,
    '10: loading with the optimizer continues as if nothing had happened',
  ],
  [
    /load_weights (base_model|optimizer_config.*)$/,
    'a new model from a checkpoint has its own metadata and, if asked, another base model',
  ],
  [/forward\w* forward\w*_input/, 'every setting of a step and of a pass reaches the engine'],
  [/optim_step adam_params/, 'every setting of a step and of a pass reaches the engine'],
  [/optim_step opti\w+_params/, 'optimizer settings reach the engine, other optimizers are refused'],
  [
    /save_weights (path|overwrite)$/,
    '5: an existing name fails the future as the user’s mistake, never with 409',
  ],
  [/save_weights_for_sampler path$/, 'a sampler of a deleted checkpoint works on until its session ends'],
  [
    /save_weights_for_sampler (sampling_session_seq_id|kind)$/,
    'an inflight sampler is a snapshot of the latest weights',
  ],
  [
    /save_weights_external (path|age_encryption_recipients)$/,
    'exports name the head as the API does, and are encrypted for their recipients',
  ],
  [/create_custom_loss /, 'a custom loss is refused with what to do instead'],
  [
    /retrieve_future (request_id|allow_metadata_only)$/,
    'a large result is announced with its size only to those who allow it',
  ],
  [/retrieve_futures /, 'the results of one sampler’s client come in one long poll'],
  [/cancel_future request_id$/, 'a cancelled sample ends at once; unknown ids are no error'],
  [/create_sampling_session /, 'a sampler is made once; its number cannot be used for other weights'],
  [/join_sampling_session sampling_session_id$/, 'clients that join a sampler get different numbers'],
  [/asample (base_model|model_path)$/, 'a sample may name its weights instead of a sampler'],
  [/asample sampling_session_id$/, 'a sample promises one id for each sequence'],
  [/asample record_stability_info$/, 'every extra of a sample comes back in its layout'],
  [/asample /, 'every option of a sample reaches the engine'],
  [/training_runs project_id$/, 'a session moves to another project together with its runs'],
  [/weights_info tinker_path$/, 'what a checkpoint covers can be asked by its path, in both schemes'],
  [/copy_weights /, 'a copy is its own checkpoint, the same for the same idempotency key'],
  [/checkpoints\/current project_id$/, 'what checkpoints take is told by project, to their owner only'],
  [/downloads\/.* (expires|signature)$/, 'a forged or expired link opens nothing'],
];

interface JsonSchema {
  properties?: Record<string, JsonSchema>;
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  $ref?: string;
  $defs?: Record<string, JsonSchema>;
}

function fieldsOf(schema: JsonSchema, path: string, defs: Record<string, JsonSchema>, depth = 0): string[] {
  if (depth > 10) return [];
  if (schema.$ref) {
    const target = defs[schema.$ref.split('/').at(-1) ?? ''] ?? {};
    return fieldsOf(target, path, defs, depth + 1);
  }
  const options = (schema.anyOf ?? schema.oneOf ?? []).flatMap((option) =>
    fieldsOf(option, path, defs, depth + 1),
  );
  const items = schema.items ? fieldsOf(schema.items, `${path}[]`, defs, depth + 1) : [];
  const properties = Object.entries(schema.properties ?? {}).flatMap(([key, field]) => {
    const name = path ? `${path}.${key}` : key;
    return [name, ...fieldsOf(field, name, defs, depth + 1)];
  });
  return [...options, ...items, ...properties];
}

/** `path of the call, field` for everything that a request may hold. */
function allFields(server: TestServer): string[] {
  return server.app.routes
    .filter((route) => route.url.startsWith('/api/v1') && route.method !== 'HEAD')
    .flatMap((route) =>
      [route.schema?.body, route.schema?.querystring]
        .filter((part) => part instanceof z.ZodType)
        .flatMap((part) => {
          const schema = z.toJSONSchema(part, { io: 'input', unrepresentable: 'any' }) as JsonSchema;
          const names = new Set(fieldsOf(schema, '', schema.$defs ?? {}));
          return [...names].map((name) => `${route.url.replace('/api/v1', '')} ${name}`);
        }),
    );
}

function testTitles(): Set<string> {
  const files = readdirSync(import.meta.dirname).filter((file) => file.endsWith('.test.ts'));
  const sources = files.map((file) => readFileSync(join(import.meta.dirname, file), 'utf8'));
  return new Set(
    sources.flatMap((source) =>
      [...source.matchAll(/test\(\s*['`](.+?)['`],/g)].map((match) => match[1] ?? ''),
    ),
  );
}

onEachDatabase((open) => {
  test('every field of every request has a test that shows its effect or its refusal', async () => {
    const fields = allFields(await open());
    expect(fields.length).toBeGreaterThan(150);
    expect(fields.filter((field) => !SHOWN.some(([pattern]) => pattern.test(field)))).toEqual([]);
    expect(SHOWN.filter(([pattern]) => !fields.some((field) => pattern.test(field)))).toEqual([]);
    const titles = testTitles();
    expect(SHOWN.map(([, title]) => title).filter((title) => !titles.has(title))).toEqual([]);
  });
});
