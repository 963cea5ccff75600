import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { findPostgres, startPostgres, type TestPostgres } from '../test/postgres.ts';
import { createStore, LocalBlobs, openPostgres, openSqlite, type Rollout, type Store } from './index.ts';

const postgresBin = await findPostgres();
const kinds = postgresBin ? ['SQLite', 'PostgreSQL'] : ['SQLite'];
let postgres: TestPostgres | undefined;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'anneal-recordings-'));
  if (postgresBin) postgres = await startPostgres(postgresBin);
});
afterAll(async () => {
  await postgres?.stop();
  await rm(folder, { recursive: true });
});

function rollout(id: string, sessionId: string, at: number, owner = 'ada'): Rollout {
  return {
    id,
    sessionId,
    owner,
    samplerId: `${sessionId}:sample:0`,
    baseModel: 'tiny',
    modelPath: null,
    at,
    summary: {
      promptTokens: 2,
      texts: [{ tokens: 1, meanLogprob: -0.5, stopReason: 'stop' }],
      params: { temperature: 1, topP: 1, topK: -1, maxTokens: 4 },
    },
    tokens: { prompt: [1, 2], texts: [{ tokens: [3], logprobs: [-0.5] }] },
  };
}

describe.each(kinds)('on %s', (kind) => {
  let store: Store;

  beforeEach(async () => {
    const database =
      kind === 'SQLite'
        ? await openSqlite(join(folder, `${randomUUID()}.sqlite`))
        : await openPostgres(await postgres!.newDatabase());
    store = createStore(database, await LocalBlobs.open(join(folder, randomUUID())));
    return () => store.close();
  });

  const add = (runId: string, steps: number[], keep = 1000) =>
    store.metrics.add(
      steps.map((step) => ({ runId, step, at: step, metrics: { 'loss:sum': 1 / step } })),
      keep,
    );
  const stepsOf = async (runId: string, after?: number) =>
    (await store.metrics.ofRun(runId, after)).map(({ step }) => step);

  test('metrics come back in order, per run, and after a step', async () => {
    await add('a', [1, 2]);
    await add('b', [7]);
    await add('a', [3]);
    expect(await store.metrics.ofRun('a')).toEqual(
      [1, 2, 3].map((step) => ({ runId: 'a', step, at: step, metrics: { 'loss:sum': 1 / step } })),
    );
    expect(await stepsOf('a', 2)).toEqual([3]);
    const latest = await store.metrics.latest(['a', 'b', 'c']);
    expect(latest.map(({ runId, step }) => [runId, step]).sort()).toEqual([
      ['a', 3],
      ['b', 7],
    ]);
  });

  test('a model that goes back to an older step counts on', async () => {
    await add('a', [1, 2, 3]);
    expect((await add('a', [2, 3])).map(({ step }) => step)).toEqual([4, 5]);
    expect(await stepsOf('a')).toEqual([1, 2, 3, 4, 5]);
  });

  test('a long run keeps its newest steps and thins the older ones', async () => {
    for (let step = 1; step <= 400; step += 1) await add('a', [step], 100);
    const steps = await stepsOf('a');
    expect(steps.length).toBeLessThanOrEqual(100);
    expect(steps.length).toBeGreaterThan(50);
    expect(steps.slice(-25)).toEqual(Array.from({ length: 25 }, (_, at) => 376 + at));
    expect(steps[0]).toBe(1);
  });

  test('settings are replaced, and metrics of unused runs are swept', async () => {
    await store.runs.create({
      id: 'a',
      sessionId: 's',
      owner: 'ada',
      projectId: null,
      baseModel: 'tiny',
      lora: { rank: 4, alpha: 32, seed: null, trainAttn: true, trainMlp: true, trainUnembed: true },
      userMetadata: null,
      createdAt: 1,
      lastRequestAt: 50,
      lastSeq: 0n,
      corrupted: false,
      unloadedAt: null,
      snapshot: null,
      changedSeq: 0n,
    });
    await add('a', [1]);
    await store.metrics.setSettings(new Map([['a', { loss_fn: 'ppo' }]]));
    await store.metrics.setSettings(new Map([['a', { loss_fn: 'cispo', beta1: 0.9 }]]));
    expect(await store.metrics.settings('a')).toEqual({ loss_fn: 'cispo', beta1: 0.9 });
    await store.metrics.sweep(50);
    expect(await stepsOf('a')).toEqual([1]);
    await store.metrics.sweep(51);
    expect(await stepsOf('a')).toEqual([]);
    expect(await store.metrics.settings('a')).toBeUndefined();
  });

  test('a session keeps its newest rollouts, readable by their owner', async () => {
    await store.rollouts.add(
      [1, 2, 3].map((at) => rollout(`r${at}`, 's', at)),
      10,
    );
    await store.rollouts.add(
      [4, 5].map((at) => rollout(`r${at}`, 's', at)),
      3,
    );
    await store.rollouts.add([rollout('other', 't', 9, 'bob')], 3);
    expect((await store.rollouts.ofSession('s', 'ada', 10)).map(({ id }) => id)).toEqual(['r5', 'r4', 'r3']);
    expect(await store.rollouts.ofSession('s', 'bob', 10)).toEqual([]);
    expect(await store.rollouts.get('r5')).toEqual(rollout('r5', 's', 5));
    expect(await store.rollouts.sessions('ada', 10)).toEqual([{ sessionId: 's', count: 3, latestAt: 5 }]);
    await store.rollouts.sweep(4);
    expect((await store.rollouts.ofSession('s', 'ada', 10)).map(({ id }) => id)).toEqual(['r5', 'r4']);
    await store.rollouts.deleteSession('s');
    expect(await store.rollouts.get('r5')).toBeUndefined();
    expect(await store.rollouts.get('other')).toBeDefined();
  });

  test('advantages are added to the texts that are kept', async () => {
    await store.rollouts.add([rollout('r', 's', 1)], 10);
    await store.rollouts.setAdvantages([
      { id: 'r', text: 0, advantage: -1.5 },
      { id: 'r', text: 9, advantage: 1 },
      { id: 'gone', text: 0, advantage: 1 },
    ]);
    const kept = await store.rollouts.get('r');
    expect(kept?.summary.texts).toEqual([
      { tokens: 1, meanLogprob: -0.5, stopReason: 'stop', advantage: -1.5 },
    ]);
  });

  test('usage adds up by owner and day', async () => {
    const usage = { owner: 'ada', trainedTokens: 2 ** 40, steps: 1, promptTokens: 3, sampledTokens: 4 };
    await store.dailyUsage.add([{ ...usage, day: '2026-01-31' }]);
    await store.dailyUsage.add([
      { ...usage, day: '2026-01-31' },
      { ...usage, day: '2026-02-01' },
    ]);
    const doubled = { owner: 'ada', trainedTokens: 2 ** 41, steps: 2, promptTokens: 6, sampledTokens: 8 };
    expect(await store.dailyUsage.since('ada', '2026-01-01')).toEqual([
      { ...doubled, day: '2026-01-31' },
      { ...usage, day: '2026-02-01' },
    ]);
    expect(await store.dailyUsage.since('bob', '2026-01-01')).toEqual([]);
    await store.dailyUsage.sweep('2026-02-01');
    expect((await store.dailyUsage.since('ada', '2026-01-01')).map(({ day }) => day)).toEqual(['2026-02-01']);
  });
});
