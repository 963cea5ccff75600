import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BaseModelInfo } from '@anneal/engine';
import { encodeForwardBackwardRequest } from '@anneal/types';
import { expect, test } from 'vitest';
import { FakeEngine } from './fake-engine.ts';
import { onEachDatabase, type TestServer } from './harness.ts';

const IMAGES = join(import.meta.dirname, '../../../packages/engine/fixtures/images');
const photo = await readFile(join(IMAGES, 'photo.jpg'));
/** Of 61 × 40 pixels at 16 pixels per token. */
const PHOTO_TOKENS = 8;
const IMAGE_ID = 900;

/** Reads images, as far as the server knows. */
class SeeingEngine extends FakeEngine {
  override async baseModels(): Promise<BaseModelInfo[]> {
    const vision = {
      imageTokenId: IMAGE_ID,
      patchSize: 8,
      mergeSize: 2,
      minPixels: 256,
      maxPixels: 2 ** 24,
    };
    return (await super.baseModels()).map((model) => ({ ...model, vision }));
  }
}

const text = (...tokens: number[]) => ({ type: 'encoded_text' as const, tokens });
const image = (more: object = {}) => ({
  type: 'image' as const,
  data: photo.toString('base64'),
  format: 'jpeg' as const,
  ...more,
});
const pointer = (location: string) => ({ type: 'image_asset_pointer', location, format: 'jpeg' });
const prompt = (...chunks: object[]) => ({ prompt: { chunks } });

function train(server: TestServer, model: string, seq: number, expectedTokens: number) {
  const count = PHOTO_TOKENS + 2;
  const chunks = [
    text(5),
    {
      type: 'image' as const,
      data: new Uint8Array(photo),
      format: 'jpeg' as const,
      expected_tokens: expectedTokens,
    },
    text(6),
  ];
  const targets = Array.from({ length: count }, () => 7);
  const inputs = { target_tokens: { data: targets, dtype: 'int64' as const, shape: [count] } };
  const data = [{ model_input: { chunks }, loss_fn_inputs: inputs }];
  const body = encodeForwardBackwardRequest({
    model_id: model,
    seq_id: seq,
    input: { data, loss_fn: 'cross_entropy' },
  });
  return server.post('/forward_backward', body);
}

onEachDatabase((open) => {
  test('an image reaches the engine decoded, with ids in its place, in samples and in training', async () => {
    const server = await open({ engine: new SeeingEngine() });
    const sampler = await server.sampler();
    const request = prompt(text(5, 6), image({ expected_tokens: PHOTO_TOKENS }), text(7));
    expect((await server.result(await server.sample(sampler, 0, request))).status).toBe(200);
    const { prompt: ids, images } = server.engine.last.sample!;
    expect([...ids]).toEqual([5, 6, ...new Array(PHOTO_TOKENS).fill(IMAGE_ID), 7]);
    expect(images).toMatchObject([{ at: 2, width: 61, height: 40 }]);
    expect(images![0]!.pixels).toHaveLength(3 * 61 * 40);

    const model = await server.model();
    expect((await server.result(await train(server, model, 1, PHOTO_TOKENS))).json.error).toBeUndefined();
    const [datum] = server.engine.last.pass!.data;
    expect(datum!.tokens).toHaveLength(PHOTO_TOKENS + 2);
    expect(datum!.images).toMatchObject([{ at: 1, width: 61 }]);
  });

  test('another number of tokens than expected is refused with the right one', async () => {
    const server = await open({ engine: new SeeingEngine() });
    const sampler = await server.sampler();
    const answer = await server.sample(sampler, 0, prompt(text(5), image({ expected_tokens: 9 })));
    const message = 'expected_tokens is 9, but the image (61 × 40 pixels) takes 8 tokens';
    expect([answer.status, answer.json.detail]).toEqual([
      400,
      expect.stringContaining(`prompt.chunks[1].${message}`),
    ]);
    const model = await server.model();
    const { json } = await server.result(await train(server, model, 1, 9));
    expect(json).toMatchObject({ category: 'user', error: `data[0].model_input[1].${message}` });
  });

  test('what is no image, too much for the context, or not for this model is refused', async () => {
    const server = await open({ engine: new SeeingEngine() });
    const sampler = await server.sampler();
    const cases: [object, string][] = [
      [image({ data: 'AAAA' }), 'chunks[0]: is no readable jpeg file'],
      [image({ format: 'png' }), 'chunks[0]: says format "png", but is a jpeg file'],
      [pointer('photo.jpg'), 'names an asset, and this server has none'],
      [{ type: 'dmel', dmel: 'AAAA' }, 'reads text and images only'],
    ];
    for (const [index, [chunk, part]] of cases.entries()) {
      const answer = await server.sample(sampler, index, prompt(chunk));
      expect([answer.status, answer.json.detail]).toEqual([400, expect.stringContaining(part)]);
    }
    const many = await server.sample(sampler, 9, prompt(...Array.from({ length: 65 }, () => image())));
    expect(many.json.detail).toContain("520 tokens with its images are more than the model's context, 512");
    const textOnly = await open();
    const answer = await textOnly.sample(await textOnly.sampler(), 0, prompt(image()));
    expect(answer.json.detail).toContain('reads text only');
  });

  test('an asset is a file of the folder, and nothing beside it', async () => {
    const first = await open();
    const assetsDir = join(first.dir, 'assets');
    await mkdir(join(assetsDir, 'a'), { recursive: true });
    await writeFile(join(assetsDir, 'a', 'photo.jpg'), photo);
    await writeFile(join(first.dir, 'secret.jpg'), photo);
    await symlink(join(first.dir, 'secret.jpg'), join(assetsDir, 'link.jpg'));
    const server = await open({ engine: new SeeingEngine(), config: { assetsDir } });
    const sampler = await server.sampler();
    await server.result(await server.sample(sampler, 0, prompt(pointer('a/photo.jpg'))));
    expect(server.engine.last.sample!.images).toMatchObject([{ at: 0, width: 61, height: 40 }]);
    for (const [index, location] of [
      '../secret.jpg',
      'link.jpg',
      'nothing.jpg',
      '.',
      join(first.dir, 'secret.jpg'),
    ].entries()) {
      const answer = await server.sample(sampler, index + 1, prompt(pointer(location)));
      expect([answer.status, answer.json.detail]).toEqual([
        400,
        expect.stringContaining(`"${location}" is n`),
      ]);
    }
    const url = await server.sample(sampler, 9, prompt(pointer('https://example.com/a.jpg')));
    expect(url.json.detail).toContain('is a URL');
  });
});
