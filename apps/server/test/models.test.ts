import { expect, test } from 'vitest';
import { FakeEngine } from './fake-engine.ts';
import { onEachDatabase } from './harness.ts';

onEachDatabase((open) => {
  test('LoRA alpha is 32, the configured one, or the one in user_metadata', async () => {
    const server = await open({ config: { loraAlpha: 16 } });
    const model = await server.model();
    expect(server.engine.models.get(model)?.lora.alpha).toBe(16);
    const chosen = await server.model({ request: { user_metadata: { lora_alpha: '64' } } });
    expect(server.engine.models.get(chosen)?.lora.alpha).toBe(64);
    const bad = { session_id: await server.session(), model_seq_id: 0, base_model: 'tiny' };
    const refused = await server.post('/create_model', { ...bad, user_metadata: { lora_alpha: 'big' } });
    expect([refused.status, refused.json.detail]).toEqual([400, expect.stringContaining('lora_alpha')]);
    const plain = await open();
    expect(plain.engine.models.get(await plain.model())?.lora.alpha).toBe(32);
  });

  test('experts have adapters of their own, or share as configured or as user_metadata says', async () => {
    const sharing = async (server: Awaited<ReturnType<typeof open>>, user_metadata?: object) =>
      server.engine.models.get(await server.model({ request: { user_metadata } }))?.lora.shareExperts ??
      false;
    const plain = await open();
    expect([await sharing(plain), await sharing(plain, { lora_experts: 'shared' })]).toEqual([false, true]);
    const configured = await open({ config: { loraExperts: 'shared' } });
    expect(await sharing(configured)).toBe(true);
    expect(await sharing(configured, { lora_experts: 'each' })).toBe(false);
    const bad = { session_id: await plain.session(), model_seq_id: 0, base_model: 'tiny' };
    const refused = await plain.post('/create_model', { ...bad, user_metadata: { lora_experts: 'some' } });
    expect([refused.status, refused.json.detail]).toEqual([400, expect.stringContaining('lora_experts')]);
  });

  test('every option of a model reaches the engine', async () => {
    const server = await open();
    const lora_config = {
      rank: 8,
      seed: 2n ** 64n - 1n,
      train_attn: false,
      train_mlp: true,
      train_unembed: false,
    };
    const model = await server.model({ request: { lora_config } });
    expect(server.engine.models.get(model)?.lora).toEqual({
      rank: 8,
      alpha: 32,
      seed: 2n ** 64n - 1n,
      trainAttn: false,
      trainMlp: true,
      trainUnembed: false,
    });
  });

  test('what cannot be made is refused at once, or fails its future, naming field and value', async () => {
    const server = await open();
    const session = await server.session();
    const create = (request: object) =>
      server.post('/create_model', { session_id: session, model_seq_id: 0, base_model: 'tiny', ...request });
    const cases: [object, number, string][] = [
      [{ base_model: 'no-such/model' }, 404, 'no-such/model'],
      [{ lora_config: { rank: 0 } }, 400, 'rank'],
      [{ lora_config: { rank: -4 } }, 400, '-4'],
      [
        { lora_config: { rank: 4, train_attn: false, train_mlp: false, train_unembed: false } },
        400,
        'nothing to train',
      ],
      [{ optimizer_config: { type: 'dimuon', version: 1 } }, 400, 'dimuon'],
      [{ session_id: 'nope' }, 404, 'nope'],
    ];
    for (const [request, status, part] of cases) {
      const answer = await create(request);
      expect([answer.status, answer.json.detail]).toEqual([status, expect.stringContaining(part)]);
    }
    const late = await server.result(await create({ lora_config: { rank: 65 } }));
    expect(late.json).toMatchObject({ category: 'user', error: expect.stringContaining('65') });
  });

  test('unknown fields of newer clients are ignored', async () => {
    const server = await open();
    expect(await server.model({ request: { newer_field: { deep: 1 } } })).toBeDefined();
  });

  test('optimizer settings reach the engine, other optimizers are refused', async () => {
    const server = await open();
    const model = await server.model();
    const step = (seq: number, more: object) =>
      server.post('/optim_step', { model_id: model, seq_id: seq, ...more });
    for (const [index, key] of ['adam_params', 'optimizer_params', 'optim_params'].entries()) {
      const answer = await server.result(await step(index + 1, { [key]: { learning_rate: 0.5 } }));
      expect(answer.json.metrics).toHaveProperty('grad_norm:l2');
    }
    expect((await step(4, { optimizer_params: { type: 'dimuon', learning_rate: 1 } })).json.detail).toContain(
      'dimuon',
    );
    expect((await step(5, {})).status).toBe(400);
    expect((await server.result(await step(6, { adam_params: {} }))).json.type).toBe('optim_step');
  });

  test('every setting of a step and of a pass reaches the engine', async () => {
    const server = await open();
    const model = await server.model();
    const adam_params = {
      learning_rate: 0.1,
      beta1: 0.2,
      beta2: 0.3,
      eps: 0.4,
      weight_decay: 0.5,
      grad_clip_norm: 0.6,
    };
    await server.post('/optim_step', { model_id: model, seq_id: 1, adam_params });
    const input = {
      data: [
        {
          model_input: { chunks: [{ type: 'encoded_text', tokens: [5, 6] }] },
          loss_fn_inputs: { target_tokens: { data: [6, 7], dtype: 'int64' } },
        },
      ],
      loss_fn: 'ppo',
      loss_fn_config: { clip_low_threshold: 0.9 },
    };
    const pass = await server.post('/forward', { forward_input: input, model_id: model, seq_id: 2 });
    await server.result(pass);
    expect(server.engine.last.adam).toEqual({
      learningRate: 0.1,
      beta1: 0.2,
      beta2: 0.3,
      eps: 0.4,
      weightDecay: 0.5,
      gradClipNorm: 0.6,
    });
    expect(server.engine.last.pass).toEqual({
      modelId: model,
      lossFn: 'ppo',
      lossFnConfig: { clip_low_threshold: 0.9 },
      forwardOnly: true,
      data: [
        {
          tokens: Int32Array.from([5, 6]),
          inputs: { target_tokens: { dtype: 'int64', shape: [2], data: BigInt64Array.from([6n, 7n]) } },
        },
      ],
    });
  });

  test('a new model from a checkpoint has its own metadata and, if asked, another base model', async () => {
    const server = await open({ engine: new FakeEngine(['tiny', 'alias']) });
    const path = await server.saveState(await server.model(), 1, 'a');
    const load = {
      session_id: await server.session(),
      model_seq_id: 0,
      path,
      optimizer: false,
      base_model: 'alias',
      user_metadata: { stage: '2' },
    };
    const loaded = await server.result(await server.post('/load_weights', load));
    const run = (await server.get(`/training_runs/${loaded.json.model_id}`)).json;
    expect(run).toMatchObject({ base_model: 'alias', user_metadata: { stage: '2' } });
    const bad = [{ optimizer_config: { type: 'dimuon', version: 1 } }, { base_model: 'no-such' }];
    for (const [index, more] of bad.entries()) {
      const answer = await server.post('/load_weights', { ...load, model_seq_id: index + 1, ...more });
      expect([400, 404]).toContain(answer.status);
    }
  });

  test('a custom loss is refused with what to do instead', async () => {
    const server = await open();
    const body = {
      session_id: await server.session(),
      custom_loss_seq_id: 0,
      name: 'mine',
      inputs: [],
      graph: { format: 1, nodes: [] },
    };
    const answer = await server.post('/create_custom_loss', body);
    expect([answer.status, answer.json.detail]).toEqual([
      400,
      expect.stringContaining('forward_backward_custom'),
    ]);
  });

  test('an access token is refused, not ignored', async () => {
    const server = await open();
    const load = {
      session_id: await server.session(),
      model_seq_id: 0,
      path: 'tinker://a/weights/b',
      optimizer: true,
    };
    const answer = await server.post('/load_weights', { ...load, weights_access_token: 'x' });
    expect([answer.status, answer.json.detail]).toEqual([
      400,
      expect.stringContaining('weights_access_token'),
    ]);
  });
});
