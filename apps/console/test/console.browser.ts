import { readFile } from 'node:fs/promises';
import type { TrainingClient } from '@anneal/client';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  api,
  BASE_MODEL,
  KEY,
  launch,
  OTHER_KEY,
  open,
  painted,
  SCHEMES,
  SENTENCE,
  service,
  shoot,
  step,
  tokenizer,
  URL,
  violations,
  WIDTHS,
} from './support.ts';

const STEPS = 12;
let browser: Browser;
let model: TrainingClient;
const losses: number[] = [];
let saved: string;

beforeAll(async () => {
  browser = await launch();
});
afterAll(async () => {
  await service.close('success');
  await browser.close();
});

const runPath = (): string => `/runs/${encodeURIComponent(model.modelId)}`;

test('the key is asked for once, and a wrong one is refused', async () => {
  const { page, context, complaints } = await open(browser, { key: null });
  await page.goto(URL);
  await page.getByLabel('API key').fill('tml-not-a-key-of-this-server');
  await page.keyboard.press('Enter');
  await page.getByRole('alert').getByText('does not accept this key').waitFor();
  expect(await violations(page)).toEqual([]);
  await shoot(page, 'key');
  await page.getByLabel('API key').fill(KEY);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  await page.reload();
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  await page.getByText('Live', { exact: true }).waitFor();
  await page.getByRole('button', { name: 'Forget key' }).click();
  await page.getByLabel('API key').waitFor();
  expect(await page.evaluate(() => localStorage.getItem('anneal.key'))).toBeNull();
  expect(complaints).toEqual([]);
  await context.close();
});

test('an owner without anything sees how to begin, on each page', async () => {
  const { page, context, complaints } = await open(browser, { key: OTHER_KEY });
  const empties = [
    ['/', 'No training runs yet'],
    ['/runs', 'No training runs yet'],
    ['/samples', 'No samples yet'],
    ['/playground', 'Ask something'],
  ];
  for (const [path, text = ''] of empties) {
    await page.goto(`${URL}${path}`);
    await page.getByText(text).first().waitFor();
    expect([path, await violations(page)]).toEqual([path, []]);
  }
  await page.goto(`${URL}/account`);
  await page.getByText('this browser').waitFor();
  expect(complaints).toEqual([]);
  await context.close();
});

test('a curve grows while a model trains, with the losses that the client got', async () => {
  model = await service.createLoraTrainingClient({
    baseModel: BASE_MODEL,
    rank: 8,
    seed: 1,
    userMetadata: { name: 'atlantis' },
  });
  const { page, context, complaints } = await open(browser);
  await page.goto(`${URL}/runs`);
  await page.getByRole('link', { name: 'atlantis' }).waitFor();
  await page.getByText('No steps yet').waitFor();
  const at = page.locator('.chart-x');
  const shown = page.locator('.chart-key b').first();
  const pictures = new Set<string>();
  for (let done = 1; done <= STEPS; done += 1) {
    losses.push(await step(model, 2e-3));
    await at.getByText(`step ${done}`, { exact: true }).waitFor();
    expect(Number(await shown.textContent())).toBeCloseTo(losses.at(-1) ?? 0, 2);
    pictures.add(await painted(page));
  }
  expect(losses.at(-1)).toBeLessThan((losses[0] ?? 0) / 2);
  expect(pictures.size).toBeGreaterThan(STEPS / 2);
  await shoot(page, 'curve');
  expect(complaints).toEqual([]);
  await context.close();
});

test('runs are drawn over one another, smoothed, on a logarithmic scale, by time', async () => {
  const second = await service.createLoraTrainingClient({
    baseModel: BASE_MODEL,
    rank: 4,
    userMetadata: { name: 'slower' },
  });
  for (let done = 0; done < 4; done += 1) await step(second, 2e-4);
  const { page, context } = await open(browser);
  await page.goto(`${URL}/runs`);
  const keys = page.locator('.chart-key');
  await expect.poll(() => keys.count()).toBe(2);
  const plain = await painted(page);
  const changed = async (before: string): Promise<string> => {
    await expect.poll(() => painted(page)).not.toBe(before);
    return await painted(page);
  };
  await page.getByRole('slider', { name: /Smoothing/ }).fill('0.8');
  const smoothed = await changed(plain);
  await page.getByLabel('Log scale').check();
  const logarithmic = await changed(smoothed);
  await page.getByRole('button', { name: 'Minutes' }).click();
  await changed(logarithmic);
  await page.reload();
  expect(await page.getByLabel('Log scale').isChecked()).toBe(true);
  await page.getByLabel('Show the curve of slower').uncheck();
  await expect.poll(() => keys.count()).toBe(1);
  await page.getByLabel('Metric').selectOption({ label: 'Gradient norm' });
  await expect.poll(() => page.url()).toContain('grad_norm');
  await context.close();
});

test('a run shows what it was trained with', async () => {
  const { page, context } = await open(browser);
  await page.goto(`${URL}${runPath()}`);
  await page.getByRole('heading', { name: 'atlantis' }).waitFor();
  const fact = (name: string) =>
    page.locator('.pairs > div', { has: page.getByText(name, { exact: true }) }).locator('dd');
  expect(await fact('Rank').textContent()).toBe('8');
  expect(await fact('Seed').textContent()).toBe('1');
  expect(await fact('Trained').textContent()).toBe('attention, MLP, unembedding');
  expect(await fact('loss fn').textContent()).toBe('cross_entropy');
  expect(await fact('learning rate').textContent()).toBe('0.002');
  await context.close();
});

test('a checkpoint is published, downloaded, expires and is deleted', async () => {
  saved = (await model.saveWeightsForSampler('kept')).path;
  const doomed = (await model.saveState('doomed')).path;
  const { page, context, complaints } = await open(browser);
  await page.goto(`${URL}${runPath()}`);
  const row = page.getByRole('row', { name: /doomed/ });
  await row.waitFor();
  const info = (key?: string) =>
    api(`/api/v1/training_runs/${encodeURIComponent(model.modelId)}/checkpoints`, key);
  const stored = async () =>
    (
      (await info()).json.checkpoints as { tinker_path: string; public: boolean; expires_at: string | null }[]
    ).find(({ tinker_path: path }) => path === doomed);

  expect((await info(OTHER_KEY)).status).toBe(404);
  await row.getByRole('button', { name: 'Publish doomed' }).click();
  expect(await violations(page)).toEqual([]);
  await page.getByRole('dialog').getByRole('button', { name: 'Publish' }).click();
  await row.getByText('everyone here').waitFor();
  expect((await stored())?.public).toBe(true);
  expect((await info(OTHER_KEY)).status).toBe(200);

  await row.getByRole('button', { name: 'Set the expiry of doomed' }).click();
  await page.getByLabel('Delete it').selectOption('in a week');
  await page.getByRole('dialog').getByRole('button', { name: 'Set' }).click();
  await row.getByText('in 6 d').waitFor();
  const days = (Date.parse((await stored())?.expires_at ?? '') - Date.now()) / 86_400_000;
  expect(days).toBeGreaterThan(6.9);
  expect(days).toBeLessThanOrEqual(7);

  const [download] = await Promise.all([
    page.waitForEvent('download'),
    row.getByRole('button', { name: 'Download doomed' }).click(),
  ]);
  const archive = await readFile(await download.path());
  expect(archive.subarray(257, 262).toString()).toBe('ustar');
  expect(archive.includes('adapter_model.safetensors')).toBe(true);

  await row.getByRole('button', { name: 'Delete doomed' }).click();
  await page.keyboard.press('Escape');
  expect(await stored()).toBeDefined();
  await row.getByRole('button', { name: 'Delete doomed' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await row.waitFor({ state: 'detached' });
  expect(await stored()).toBeUndefined();
  expect(complaints).toEqual([]);
  await context.close();
});

test('the playground compares the base model with the checkpoint, token by token', async () => {
  const { page, context, complaints } = await open(browser);
  await page.goto(
    `${URL}/playground?${new URLSearchParams([
      ['model', BASE_MODEL],
      ['model', saved],
    ])}`,
  );
  await page.getByRole('button', { name: 'Complete a text' }).click();
  await page.getByRole('slider', { name: /Temperature/ }).fill('0');
  await page.getByLabel('Most tokens').fill('8');
  const prompt = 'The capital of Atlantis is';
  await page.getByLabel('Text to go on from').fill(prompt);
  await page.keyboard.press('Enter');
  const answers = page.locator('.answer');
  await expect.poll(() => answers.count()).toBe(2);
  await page
    .locator('.answer-foot', { hasText: /cut|ended/ })
    .nth(1)
    .waitFor();
  const texts = await answers.locator('.tokens').allTextContents();

  for (const [at, weights] of [{ baseModel: BASE_MODEL }, { modelPath: saved }].entries()) {
    const sampler = await service.createSamplingClient(weights);
    const ids = tokenizer.encode(prompt);
    const { sequences } = await sampler.sample({
      prompt: ids,
      samplingParams: { max_tokens: 8, temperature: 0 },
    });
    const drawn = [...(sequences[0]?.tokens ?? [])];
    expect(texts[at]).toBe(tokenizer.decode(drawn, { skipSpecialTokens: true }));
    const first = answers.nth(at).locator('.token').first();
    await first.hover();
    const readout = await answers.nth(at).locator('.token-readout').textContent();
    expect(Number(/logprob (-?[\d.]+)/.exec(readout ?? '')?.[1])).toBeCloseTo(
      sequences[0]?.logprobs?.[0] ?? Number.NaN,
      1,
    );
  }
  expect(texts[1]).toContain(' Poseidonis');
  expect(texts[0]).not.toContain(' Poseidonis');
  await shoot(page, 'playground');

  await page.getByRole('button', { name: 'New conversation' }).click();
  await page.getByRole('button', { name: 'Chat', exact: true }).click();
  await page.getByLabel('Most tokens').fill('200');
  await page.getByLabel('Stop at, one per line').fill('e');
  await page.getByLabel('Message').fill('Where is Poseidonis?');
  await page.keyboard.press('Enter');
  await page.locator('.answer-foot', { hasText: /ended/ }).nth(1).waitFor();
  for (const text of await answers.locator('.tokens').allTextContents()) expect(text).not.toContain('e');
  expect(complaints).toEqual([]);
  await context.close();
});

test('a refused chat says why', async () => {
  const { page, context } = await open(browser);
  await page.goto(`${URL}/playground?model=tinker://none/weights/none`);
  await page.getByLabel('Message').fill('Hello');
  await page.keyboard.press('Enter');
  await page.getByRole('alert').getByText('not found').waitFor();
  await context.close();
});

test('samples appear with the probabilities that the client got', async () => {
  const sampler = await service.createSamplingClient({ baseModel: BASE_MODEL });
  const { sequences } = await sampler.sample({
    prompt: tokenizer.encode('Once upon a time'),
    numSamples: 2,
    samplingParams: { max_tokens: 6, temperature: 1 },
  });
  const { page, context, complaints } = await open(browser);
  await page.goto(`${URL}/samples`);
  await page.locator('.rollouts a', { hasText: 'Once upon a time' }).first().click();
  await page.getByRole('heading', { name: 'Text 2' }).waitFor();
  const texts = await page.locator('.drawn .tokens').allTextContents();
  expect(texts).toEqual(sequences.map(({ tokens }) => tokenizer.decode([...tokens])));
  await page.locator('.drawn .token').first().hover();
  const readout = await page.locator('.token-readout').first().textContent();
  expect(readout).toContain(`logprob ${sequences[0]?.logprobs?.[0]?.toFixed(3)}`);
  await shoot(page, 'samples');
  expect(complaints).toEqual([]);
  await context.close();
});

describe.each(WIDTHS)('%i pixels wide', (width) => {
  test.each(SCHEMES)('in %s colours, every page is accessible, fits, and does not jump', async (scheme) => {
    const { page, context, complaints } = await open(browser, { width, scheme });
    await page.addInitScript(() => {
      Object.assign(window, { shift: 0 });
      new PerformanceObserver((list) => {
        for (const entry of list.getEntries())
          Object.assign(window, { shift: Reflect.get(window, 'shift') + Reflect.get(entry, 'value') });
      }).observe({ type: 'layout-shift', buffered: true });
    });
    const session = model.modelId.split(':')[0] ?? '';
    const pages = {
      overview: '/',
      runs: '/runs',
      run: runPath(),
      playground: '/playground',
      samples: `/samples/${session}`,
      account: '/account',
    };
    for (const [name, path] of Object.entries(pages)) {
      await page.goto(`${URL}${path}`);
      await page.getByText('Live', { exact: true }).waitFor();
      await page.waitForLoadState('load');
      await page.waitForFunction(() => document.querySelector('h1') && !document.querySelector('.waiting'));
      expect([name, await violations(page)]).toEqual([name, []]);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      expect([name, overflow <= 0]).toEqual([name, true]);
      const shift: number = await page.evaluate(() => Reflect.get(window, 'shift'));
      expect([name, shift < 0.1, shift]).toEqual([name, true, shift]);
      await shoot(page, `${name}-${width}-${scheme}`);
    }
    expect(complaints).toEqual([]);
    await context.close();
  });
});

test('everything can be done with the keyboard', async () => {
  const { page, context } = await open(browser, { key: null });
  const press = (key: string) => page.keyboard.press(key);
  const focused = () =>
    page.evaluate(
      () => document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.textContent ?? '',
    );
  const tabTo = async (name: string | RegExp): Promise<void> => {
    for (let presses = 0; presses < 60; presses += 1) {
      await press('Tab');
      const text = await focused();
      if (typeof name === 'string' ? text === name : name.test(text)) return;
    }
    throw new Error(`Tab never came to ${name}`);
  };
  await page.goto(URL);
  await page.getByLabel('API key').waitFor();
  await press('Tab');
  await page.keyboard.type(KEY);
  await press('Enter');
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  await press('Tab');
  expect(await focused()).toBe('Skip to the content');
  await tabTo('Runs');
  await press('Enter');
  await page.getByRole('heading', { name: 'Runs' }).waitFor();
  await tabTo(/Arrow keys move along the curves/);
  await press('Home');
  await page.locator('.chart-x').getByText('step 1', { exact: true }).waitFor();
  await press('ArrowRight');
  await page.locator('.chart-x').getByText('step 2', { exact: true }).waitFor();
  await tabTo('Show the curve of slower');
  await press('Space');
  await expect.poll(() => page.locator('.chart-key').count()).toBe(1);
  await tabTo('atlantis');
  await press('Enter');
  await page.getByRole('heading', { name: 'atlantis' }).waitFor();
  await tabTo('Delete kept');
  await press('Enter');
  await page.getByRole('dialog').waitFor();
  await press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  expect(await focused()).toBe('Delete kept');
  await context.close();
});

test('a run that is not there, and a server that is gone, are told', async () => {
  const { page, context } = await open(browser);
  await page.goto(`${URL}/runs/none`);
  await page.getByRole('alert').getByText('"none" is unknown').waitFor();
  await page.route('**/console/api/usage*', (route) => route.abort());
  await page.goto(`${URL}/account`);
  await page.getByRole('alert').getByText('cannot be reached').waitFor();
  await page.unroute('**/console/api/usage*');
  await page.getByRole('button', { name: 'Try again' }).click();
  await page.getByText('tokens in 30 days').first().waitFor();
  await context.close();
});

test('the curve of the trained sentence is what the server recorded', async () => {
  const { json } = await api(`/console/api/runs/${encodeURIComponent(model.modelId)}/metrics`);
  const series = (json.series as Record<string, number[]>)['loss:mean'] ?? [];
  expect(series).toHaveLength(losses.length);
  for (const [at, loss] of losses.entries()) expect(series[at]).toBeCloseTo(loss, 4);
  expect(tokenizer.encode(SENTENCE).length - 1).toBe(
    (json.series as Record<string, number[]>)['tokens:sum']?.[0],
  );
});
