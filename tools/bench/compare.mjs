/**
 * Anneal beside others on this machine: every contender does a piece of work in turns (A B A B …), on the same tokens, with
 * the same number of threads. Ratios are taken turn by turn, so that what else the machine does meets both.
 *
 *   node tools/bench/compare.mjs --against torch --against llama.cpp [--against URL] [--model M] [--precision P]
 *     [--case train/4x256] [--repeat 5] [--json]
 */
import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { ANNEAL, annealContender, contendersOf, start } from './contender.mjs';

const DEFAULT_MODEL = 'HuggingFaceTB/SmolLM2-135M-Instruct';
/** Rounds that are not counted: the first compiles. */
const WARM_UPS = 2;
/** A contender whose first warm-up is slower than the fastest's by more than this takes no further part in the case. */
const HOPELESS = 10;
const MOST_ADAPTERS = 8;
/** Ids below are special in many vocabularies. */
const LOWEST_ID = 10;
const HIGHEST_ID = 30_000;

const train = (batch, length) => ({
  id: `train/${batch}x${length}`,
  work: 'train',
  request: (seed, vocabSize) => ({ sequences: sequences(batch, length + 1, seed, vocabSize) }),
  score: ({ seconds, tokens }) => tokens / seconds,
});
const decode = (batch) => ({
  id: `decode/${batch}`,
  work: 'generate',
  request: (seed, vocabSize) => ({
    prompts: sequences(batch, 32, seed, vocabSize),
    newTokens: 64,
    adapters: Math.min(batch, MOST_ADAPTERS),
  }),
  score: ({ seconds, tokens }) => tokens / seconds,
});
const prefill = (batch, length) => ({
  id: `prefill/${batch}x${length}`,
  work: 'generate',
  request: (seed, vocabSize) => ({
    prompts: sequences(batch, length, seed, vocabSize),
    newTokens: 1,
    adapters: 1,
  }),
  score: ({ parts }) => (batch * length) / (parts.firstTokens ?? parts.total),
});

/** What is done before the first case of its kind: a fresh process loads much of itself then, for minutes from a cold disk. */
const FIRST_OF = { train: train(1, 32), generate: prefill(1, 32) };

/** Training first: what it takes in memory is then not mixed with sampling's. */
const CASES = [train(4, 256), train(8, 256), decode(1), decode(8), decode(32), prefill(8, 256)];

/** Token ids from the generator of Park and Miller: the contenders are sent them, so all work on the same ones. */
function sequences(count, length, seed, vocabSize) {
  let state = seed * 7919 + 1;
  const next = () => {
    state = (state * 48_271) % 2_147_483_647;
    return LOWEST_ID + (state % (Math.min(HIGHEST_ID, vocabSize) - LOWEST_ID));
  };
  return Array.from({ length: count }, () => Array.from({ length }, next));
}

/** @returns per case: tokens/s of each contender in each round, their ratios and peaks of memory */
export async function compare({ model = DEFAULT_MODEL, against, precisions, only = [], repeats = 5, say }) {
  const { folder, vocabSize } = describeModel(model);
  const plans = [
    ...precisions.map((precision) => annealContender(model, precision)),
    ...against.flatMap((name) => contendersOf(name, { model, folder })),
  ];
  const contenders = [];
  try {
    for (const plan of plans) {
      say(`starting ${plan.name}`);
      contenders.push(await start(plan));
    }
    const cases = [];
    for (const entry of CASES) {
      if (only.length > 0 && !only.some((begin) => entry.id.startsWith(begin))) continue;
      if (cases.every(({ work }) => work !== entry.work)) await wake(entry.work, contenders, vocabSize);
      cases.push(await runCase(entry, contenders, { vocabSize, repeats, say }));
    }
    const about = Object.fromEntries(contenders.map((contender) => [contender.name, contender.about]));
    return { date: new Date().toISOString(), model, repeats, contenders: about, cases };
  } finally {
    await Promise.all(contenders.map((contender) => contender.stop()));
  }
}

async function wake(work, contenders, vocabSize) {
  for (const { works, ask } of contenders) {
    if (works.includes(work)) await ask({ work, ...FIRST_OF[work].request(0, vocabSize) });
  }
}

async function runCase({ id, work, request, score }, all, { vocabSize, repeats, say }) {
  let contenders = all.filter(({ works }) => works.includes(work));
  const rates = Object.fromEntries(contenders.map(({ name }) => [name, []]));
  const peaks = {};
  const leftOut = {};
  for (let round = -WARM_UPS; round < repeats; round++) {
    const asked = request(round + WARM_UPS, vocabSize);
    const turn = [];
    for (const { name, ask } of contenders) {
      const answer = await ask({ work, ...asked });
      const rate = score(answer);
      say(`${id} ${round < 0 ? 'warm-up' : `round ${round + 1}`}: ${name} ${rate.toFixed(1)} tokens/s`);
      turn.push({ name, rate, peakBytes: answer.peakBytes });
      peaks[name] = Math.max(peaks[name] ?? 0, answer.peakBytes ?? 0);
      if (round >= 0) rates[name].push(rate);
    }
    if (round === -WARM_UPS) {
      Object.assign(leftOut, tooSlow(turn));
      contenders = contenders.filter(({ name }) => !(name in leftOut));
    }
  }
  const results = contenders.map(({ name }) => {
    const values = rates[name];
    const [best, middle] = [Math.max(...values), median(values)];
    return [name, { tokensPerSecond: values, best, median: middle, peakBytes: peaks[name] }];
  });
  const counted = Object.fromEntries(contenders.map(({ name }) => [name, rates[name]]));
  return { id, work, results: Object.fromEntries(results), leftOut, ratios: ratiosOf(counted) };
}

/** Of one round: rate and memory of those that would only hold the others up. */
function tooSlow(turn) {
  const fastest = Math.max(...turn.map(({ rate }) => rate));
  const slow = turn.filter(({ rate }) => rate * HOPELESS < fastest);
  return Object.fromEntries(slow.map(({ name, rate, peakBytes }) => [name, { rate, peakBytes }]));
}

/** Of each of Anneal's contenders to each other one: the worst round and the median one. */
function ratiosOf(rates) {
  const names = Object.keys(rates);
  const own = names.filter((name) => name.startsWith('anneal '));
  return own.flatMap((name) =>
    names
      .filter((other) => !own.includes(other))
      .map((other) => {
        const ratios = rates[name].map((rate, round) => rate / rates[other][round]);
        return { name, other, min: Math.min(...ratios), median: median(ratios) };
      }),
  );
}

function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)];
}

/** Fetches the model if need be; the others read the same folder. */
function describeModel(model) {
  const { folder } = annealJson(['model', 'pull', model]);
  return { folder, vocabSize: annealJson(['model', 'inspect', folder]).vocabSize };
}

/** What a command of Anneal answers as JSON. */
export function annealJson(args) {
  const [program, ...flags] = ANNEAL;
  const { status, stdout } = spawnSync(program, [...flags, ...args, '--json'], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (status !== 0) throw new Error(`anneal ${args.join(' ')} failed (${status})`);
  return JSON.parse(stdout);
}

export function formatComparison({ cases }) {
  const lines = [];
  for (const { id, results, leftOut, ratios } of cases) {
    lines.push(id);
    for (const [name, { rate }] of Object.entries(leftOut))
      lines.push(`  ${name.padEnd(20)} ${rate.toFixed(1)} tokens/s in its first warm-up, left out`);
    for (const [name, { best, median: middle, peakBytes }] of Object.entries(results)) {
      const memory = peakBytes ? `, peak ${(peakBytes / 1e9).toFixed(2)} GB` : '';
      lines.push(
        `  ${name.padEnd(20)} ${best.toFixed(1)} tokens/s best, ${middle.toFixed(1)} median${memory}`,
      );
    }
    for (const { name, other, min, median: middle } of ratios)
      lines.push(`  ${name} / ${other}: ${min.toFixed(2)} min, ${middle.toFixed(2)} median`);
  }
  return lines.join('\n');
}

async function main() {
  const { values } = parseArgs({
    options: {
      against: { type: 'string', multiple: true, default: ['torch'] },
      model: { type: 'string' },
      precision: { type: 'string', multiple: true, default: ['auto'] },
      case: { type: 'string', multiple: true, default: [] },
      repeat: { type: 'string', default: '5' },
      json: { type: 'boolean', default: false },
    },
  });
  const result = await compare({
    model: values.model,
    against: values.against,
    precisions: values.precision,
    only: values.case,
    repeats: Number(values.repeat),
    say: (line) => console.error(`anneal: ${line}`),
  });
  console.log(values.json ? JSON.stringify(result, null, 2) : formatComparison(result));
}

if (process.argv[1] === import.meta.filename) {
  try {
    await main();
  } catch (error) {
    console.error(`anneal: error: ${error.message}`);
    process.exitCode = 1;
  }
}
