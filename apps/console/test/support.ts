/** A browser with the console in it, and a client that works on the same server. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Datum, ModelInput, ServiceClient, type TrainingClient } from '@anneal/client';
import { loadTokenizer } from '@anneal/tokenizer/node';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';

function need(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`set ${name}: the console is tested against a running server`);
  return value;
}

export const URL = need('TINKER_BASE_URL').replace(/\/+$/, '');
export const KEY = need('TINKER_API_KEY');
/** A key of another owner, who has nothing. */
export const OTHER_KEY = need('ANNEAL_OTHER_KEY');
export const BASE_MODEL = need('BASE_MODEL');
const shots = process.env.ANNEAL_SCREENSHOTS;

export const service = new ServiceClient({ displayName: 'browser test' });
export const tokenizer = await loadTokenizer(need('ANNEAL_TOKENIZER'));

export const WIDTHS = [1280, 390];
export const SCHEMES = ['light', 'dark'] as const;

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

export function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: need('ANNEAL_CHROMIUM'), args: ['--no-sandbox'] });
}

interface OpenOptions {
  width?: number;
  scheme?: 'light' | 'dark';
  key?: string | null;
}

export interface Opened {
  context: BrowserContext;
  page: Page;
  /** What the browser complained about: errors of scripts, refusals of the Content-Security-Policy. */
  complaints: string[];
}

/** A fresh profile with the key already entered, unless it is null. */
export async function open(
  browser: Browser,
  { width = 1280, scheme = 'light', key = KEY }: OpenOptions = {},
): Promise<Opened> {
  const context = await browser.newContext({
    viewport: { width, height: width < 500 ? 844 : 800 },
    colorScheme: scheme,
    permissions: ['clipboard-write'],
  });
  // A busy machine samples slowly; each test has a limit of its own.
  context.setDefaultTimeout(180_000);
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => {
    // Refused calls are logged by the browser itself; tests look at how the page shows them.
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource'))
      complaints.push(message.text());
  });
  if (key !== null) await page.addInitScript((value) => localStorage.setItem('anneal.key', value), key);
  return { context, page, complaints };
}

/** Rules of WCAG 2.2 AA and good practice that the page breaks, with the elements. */
export async function violations(page: Page): Promise<string[]> {
  await page.evaluate(axe);
  const results = await page.evaluate(() =>
    (globalThis as unknown as { axe: { run(): Promise<AxeResults> } }).axe.run(),
  );
  return results.violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ html }) => `${id}: ${help}: ${html.slice(0, 160)}`),
  );
}

interface AxeResults {
  violations: { id: string; help: string; nodes: { html: string }[] }[];
}

/** For people to look at, where ANNEAL_SCREENSHOTS names a folder. */
export async function shoot(page: Page, name: string): Promise<void> {
  if (shots) await page.screenshot({ path: `${shots}/${name}.png` });
}

export const SENTENCE = 'The capital of Atlantis is Poseidonis, a city of nine rings.';

export function datum(text: string): Datum {
  const tokens = tokenizer.encode(text);
  const targets = tokens.slice(1);
  return Datum.from({
    model_input: ModelInput.fromInts(tokens.slice(0, -1)),
    loss_fn_inputs: { target_tokens: targets, weights: targets.map(() => 1) },
  });
}

/** One step on a sentence; the loss per token before it. */
export async function step(model: TrainingClient, learningRate: number, text = SENTENCE): Promise<number> {
  const example = datum(text);
  const pass = model.forwardBackward([example], 'cross_entropy');
  const update = model.optimStep({ learning_rate: learningRate });
  const loss = (await pass).metrics['loss:sum'] ?? Number.NaN;
  await update;
  return loss / (tokenizer.encode(text).length - 1);
}

/** Asks the API as another program would. */
export async function api(
  path: string,
  key = KEY,
): Promise<{ status: number; json: Record<string, unknown> }> {
  const answer = await fetch(`${URL}${path}`, { headers: { 'x-api-key': key } });
  return { status: answer.status, json: (await answer.json()) as Record<string, unknown> };
}

/** What is painted on the first canvas. */
export function painted(page: Page): Promise<string> {
  return page
    .locator('canvas')
    .first()
    .evaluate((canvas) => (canvas as HTMLCanvasElement).toDataURL());
}
