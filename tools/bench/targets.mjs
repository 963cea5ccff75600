/** What Anneal is held to on this kind of machine, and how each value is read from a report. */

/**
 * A report: `bench`, what `anneal bench --json` prints; `comparison`, what compare.mjs finds; `matmul`, rates of `anneal
 * doctor` in GFLOP/s; `parameters`, weights that each token is multiplied with.
 *
 * `value` gives a number (undefined: not measured) that must be at least `least` or at most `most`; `show` prints it.
 */
export const TARGETS = [
  {
    work: 'LoRA r16 train step 4x256, best precision',
    target: '≥ 1.5 × torch + peft at its best precision',
    value: (report) => bestToBest(report, 'train/4x256'),
    least: 1.5,
    show: times,
  },
  {
    work: 'same, in useful FLOPs',
    target: "≥ 60 % of the machine's matmul rate",
    value: ({ bench, matmul, parameters }) =>
      (rate(bench, 'train/4x256') * FLOPS_PER_WEIGHT * parameters) / (bestRate(matmul) * 1e9),
    least: 0.6,
    show: percent,
  },
  {
    work: 'same in fp32',
    target: '≥ 1.1 × torch + peft fp32',
    value: (report) => ratio(report, 'train/4x256', 'anneal fp32', 'torch fp32'),
    least: 1.1,
    show: times,
  },
  {
    work: '8 adapters training at once',
    target: '≥ 0.9 × one adapter at equal total batch',
    value: ({ bench }) => rate(bench, 'adapters/8') / rate(bench, 'adapters/1'),
    least: 0.9,
    show: times,
  },
  {
    work: 'padding of mixed lengths',
    target: '≤ 15 %',
    value: ({ bench }) => find(bench, 'train/mixed')?.details.paddingWaste,
    most: 0.15,
    show: percent,
  },
  {
    work: 'decode batch 1',
    target: '≥ 2 × transformers at its best precision',
    value: (report) => bestToBest(report, 'decode/1'),
    least: 2,
    show: times,
  },
  {
    work: 'decode batch 1',
    target: '≥ 0.8 × llama.cpp with 16-bit weights',
    value: (report) => bestTo(report, 'decode/1', 'llama.cpp 16-bit'),
    least: 0.8,
    show: times,
  },
  ...[8, 32].flatMap((batch) => [
    {
      work: `decode batch ${batch}, mixed adapters`,
      target: '≥ 3 × transformers at its best precision',
      value: (report) => bestToBest(report, `decode/${batch}`),
      least: 3,
      show: times,
    },
    {
      work: `decode batch ${batch}, mixed adapters`,
      target: 'ahead of llama.cpp with 4-bit weights',
      value: (report) => bestTo(report, `decode/${batch}`, 'llama.cpp 4-bit'),
      least: 1,
      show: times,
    },
    {
      work: `decode batch ${batch}, mixed adapters`,
      target: '≥ 0.9 × one adapter',
      value: ({ bench }) => rate(bench, `decode/${batch}/mixed`) / rate(bench, `decode/${batch}/one`),
      least: 0.9,
      show: times,
    },
  ]),
  ...[
    ['train 8x256 over HTTP', 'server/train/8x256', 143],
    ['8 samples over HTTP', 'server/decode/8/one', 106],
    ['1 sample over HTTP', 'server/decode/1', 13],
  ].map(([work, id, peers]) => ({
    work,
    target: `≥ 3 × SkyRL-tx and Hatchery (${peers} tokens/s)`,
    value: ({ bench }) => rate(bench, id) / peers,
    least: 3,
    show: times,
  })),
  ...[
    ['sample of one token over HTTP', 'server/latency/one-token', 0.2],
    ['logprobs of 256 tokens over HTTP', 'server/latency/logprobs-256', 1.7],
  ].map(([work, id, peers]) => ({
    work,
    target: `≤ 1/3 of SkyRL-tx and Hatchery (${peers} s)`,
    value: ({ bench }) => seconds(bench, id),
    most: peers / 3,
    show: milliseconds,
  })),
  {
    work: '16 samples of one prompt of 512 tokens',
    target: 'all first tokens ≤ 1.3 × that of one sample',
    value: ({ bench }) => seconds(bench, 'first-token/512x16') / seconds(bench, 'first-token/512'),
    most: 1.3,
    show: times,
  },
  ...[
    ['get_info', 'server/get-info'],
    ['empty optim_step and its result', 'server/empty-optim-step'],
  ].flatMap(([work, id]) => [
    {
      work: `${work}, 500 open polls`,
      target: 'p50 ≤ 3 ms',
      value: ({ bench }) => find(bench, id)?.details.p50,
      most: 0.003,
      show: milliseconds,
    },
    {
      work: `${work}, 500 open polls`,
      target: 'p99 ≤ 15 ms',
      value: ({ bench }) => find(bench, id)?.details.p99,
      most: 0.015,
      show: milliseconds,
    },
  ]),
  ...[
    ['fp32', () => 'anneal fp32', 'torch fp32'],
    ['best precision', ({ results }) => fastest(results, 'anneal '), 'torch bf16'],
  ].map(([work, ownOf, other]) => ({
    work: `memory of training 4x256, ${work}`,
    target: `≤ half of ${other}`,
    value: ({ comparison }) => {
      const own = ownOf(resultsOf(comparison, 'train/4x256'));
      return peak(comparison, 'train/4x256', own) / peak(comparison, 'train/4x256', other);
    },
    most: 0.5,
    show: times,
  })),
  {
    work: 'memory of training a context of 4096',
    target: '≤ 8 GiB',
    value: ({ bench }) => find(bench, 'context/4096')?.peakBytes,
    most: 8 * 2 ** 30,
    show: (bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`,
  },
  {
    work: 'cost of a token at a context of 2048',
    target: '≤ 1.15 × that at 512',
    value: ({ bench }) => rate(bench, 'context/512') / rate(bench, 'context/2048'),
    most: 1.15,
    show: times,
  },
  ...[
    ['start until healthy, warm caches', 'server/start', 5],
    ['first train step, compiling included', 'server/first-step', 20],
    ['first step of the next shape', 'server/next-shape', 5],
  ].map(([work, id, most]) => ({
    work,
    target: `≤ ${most} s`,
    value: ({ bench }) => seconds(bench, id),
    most,
    show: (value) => `${value.toFixed(1)} s`,
  })),
];

/** Forward and gradient by the input: a multiplication and an addition each. Frozen weights have no gradient of their own. */
const FLOPS_PER_WEIGHT = 4;

export const NOT_MEASURED = 'not yet measured';

/** @returns the value as text, and whether it meets the target; undefined where it was not measured */
export function judge({ value, least, most, show }, report) {
  const found = report && value(report);
  if (found === undefined || !Number.isFinite(found)) return { shown: NOT_MEASURED, met: undefined };
  return { shown: show(found), met: least === undefined ? found <= most : found >= least };
}

function find({ cases }, id) {
  return cases.find((entry) => entry.id === id);
}

function rate(bench, id) {
  return find(bench, id)?.tokensPerSecondMedian;
}

function seconds(bench, id) {
  return find(bench, id)?.secondsMedian;
}

function bestRate({ fp32, bf16 = 0 }) {
  return Math.max(fp32, bf16);
}

function resultsOf(comparison, id) {
  return comparison.cases.find((entry) => entry.id === id) ?? { results: {}, ratios: [] };
}

/** Median of the rounds' ratios. */
function ratio({ comparison }, id, name, other) {
  return resultsOf(comparison, id).ratios.find((entry) => entry.name === name && entry.other === other)
    ?.median;
}

/** The contender whose name begins so and whose median is highest. */
export function fastest(results, beginning) {
  const names = Object.keys(results).filter((name) => name.startsWith(beginning));
  return names.sort((a, b) => results[b].median - results[a].median)[0];
}

/** Ratio of Anneal's best precision to another contender. */
function bestTo(report, id, other) {
  return ratio(report, id, fastest(resultsOf(report.comparison, id).results, 'anneal '), other);
}

/** The same to torch's best precision. */
function bestToBest(report, id) {
  return bestTo(report, id, fastest(resultsOf(report.comparison, id).results, 'torch '));
}

function peak(comparison, id, name) {
  const { results, leftOut } = resultsOf(comparison, id);
  return (results[name] ?? leftOut?.[name])?.peakBytes;
}

function times(value) {
  return `${value.toFixed(2)} ×`;
}

function percent(value) {
  return `${(value * 100).toFixed(0)} %`;
}

function milliseconds(value) {
  return `${(value * 1000).toFixed(value < 0.01 ? 1 : 0)} ms`;
}
