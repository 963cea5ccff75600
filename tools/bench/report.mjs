/**
 * Measures everything on this machine, which should do nothing else meanwhile, and writes the tables of docs/benchmarks.md:
 *
 *   node tools/bench/report.mjs [--save FILE] [--from FILE] [--quick]
 *
 * `--save` keeps the measured values as JSON; `--from` writes the tables from such a file and measures nothing; `--quick`
 * tries it all out in a few minutes, with numbers that are not worth keeping.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { annealJson, compare } from './compare.mjs';
import { fastest, judge, NOT_MEASURED, TARGETS } from './targets.mjs';

const DOCS = join(dirname(dirname(import.meta.dirname)), 'docs', 'benchmarks.md');
const MODEL = 'HuggingFaceTB/SmolLM2-135M-Instruct';
const COMPARED = ['train/4x256', 'decode/'];
const REPEATS = 3;

const say = (line) => console.error(`anneal: ${line}`);

/** @param keep Takes what is measured so far: the comparison comes last and takes long. */
async function measure(quick, keep) {
  const { matmul: before } = annealJson(['doctor']);
  annealJson(['model', 'pull', MODEL]);
  const model = annealJson(['model', 'inspect', MODEL]);
  const runs = quick ? ['--quick', '--repeat', '1'] : ['--repeat', String(REPEATS)];
  const precision = before.bf16 > before.fp32 ? 'bf16' : 'auto';
  const bench = annealJson(['bench', '--model', MODEL, '--precision', precision, ...runs]);
  // What the machine reaches: others may have been busy at the beginning.
  const matmul = faster(before, annealJson(['doctor']).matmul);
  const own = { matmul, parameters: weightsPerToken(model), bench };
  keep(own);
  const comparison = await compare({
    model: MODEL,
    against: ['torch', 'llama.cpp'],
    precisions: [...new Set(['auto', 'fp32', precision])],
    only: COMPARED,
    repeats: quick ? 1 : REPEATS,
    say,
  });
  return { ...own, comparison };
}

/** The larger of each rate. */
function faster(a, b) {
  return { ...a, fp32: Math.max(a.fp32, b.fp32), ...(a.bf16 ? { bf16: Math.max(a.bf16, b.bf16) } : {}) };
}

/** Embeddings are looked up, not multiplied, unless they are the unembedding too. */
function weightsPerToken({ parameters, vocabSize, hiddenSize, tiedEmbeddings }) {
  return tiedEmbeddings ? parameters : parameters - vocabSize * hiddenSize;
}

function table(head, rows) {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

function machineText(report) {
  if (!report) return `Machine, versions, date: ${NOT_MEASURED}.`;
  const { bench, comparison, matmul } = report;
  const { machine } = bench;
  const others = Object.values(comparison.contenders).filter((about) => about !== 'engine');
  return [
    `Measured on ${bench.date.slice(0, 10)}: ${machine.cpu}, ${machine.cores} cores (${machine.features.join(', ')}),`,
    `${(machine.memoryBytes / 1e9).toFixed(0)} GB, ${machine.os}, Node ${machine.node}; load before: ${machine.loadAverage.toFixed(2)}.`,
    `Matrix products: ${matmul.fp32.toFixed(0)} GFLOP/s in fp32${matmul.bf16 ? `, ${matmul.bf16.toFixed(0)} in bf16` : ''}.`,
    `${bench.model}, precision ${bench.precision}, Anneal ${bench.version}, ${bench.backend}; ${others.join('; ')}.`,
  ].join('\n');
}

function targetsTable(report) {
  const rows = TARGETS.map((target) => {
    const { shown, met } = judge(target, report);
    return [target.work, target.target, shown, met === undefined ? '' : met ? 'yes' : 'no'];
  });
  return table(['work', 'target', 'measured', 'met'], rows);
}

function comparisonTable(report) {
  const head = [
    'case',
    'contender',
    'tokens/s best',
    'median',
    'peak memory',
    'Anneal at its best to it, min',
    'median',
  ];
  if (!report) return table(head, [[NOT_MEASURED, '', '', '', '', '', '']]);
  const gigabytes = (bytes) => (bytes ? `${(bytes / 1e9).toFixed(2)} GB` : '');
  const rows = report.comparison.cases.flatMap(({ id, results, leftOut = {}, ratios }) => [
    ...Object.entries(results).map(([name, { best, median, peakBytes }]) => {
      const ratio = ratios.find(
        (entry) => entry.name === fastest(results, 'anneal ') && entry.other === name,
      );
      return [
        id,
        name,
        best.toFixed(1),
        median.toFixed(1),
        gigabytes(peakBytes),
        ratio ? ratio.min.toFixed(2) : '',
        ratio ? ratio.median.toFixed(2) : '',
      ];
    }),
    ...Object.entries(leftOut).map(([name, { rate, peakBytes }]) => {
      return [
        id,
        name,
        `${rate.toFixed(1)} in its first warm-up, left out`,
        '',
        gigabytes(peakBytes),
        '',
        '',
      ];
    }),
  ]);
  return table(head, rows);
}

function casesTable(report) {
  const head = ['case', 'tokens/s best', 'median', 'seconds best', 'median', 'first', 'peak memory'];
  if (!report) return table(head, [[NOT_MEASURED, '', '', '', '', '', '']]);
  const rows = report.bench.cases.map((entry) => [
    entry.id,
    entry.tokensPerSecondBest?.toFixed(1) ?? '',
    entry.tokensPerSecondMedian?.toFixed(1) ?? '',
    entry.secondsMin.toPrecision(3),
    entry.secondsMedian.toPrecision(3),
    entry.firstSeconds?.toPrecision(3) ?? '',
    entry.peakBytes ? `${(entry.peakBytes / 1e9).toFixed(2)} GB` : '',
  ]);
  const skipped = report.bench.skipped.map(({ id, reason }) => `\nSkipped ${id}: ${reason}.`);
  return [table(head, rows), ...skipped].join('\n');
}

/** Replaces what stands between `<!-- name -->` and `<!-- /name -->`. */
function fill(text, name, content) {
  const [open, close] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const [begin, end] = [text.indexOf(open), text.indexOf(close)];
  if (begin < 0 || end < begin) throw new Error(`docs/benchmarks.md has no ${open} … ${close}`);
  return `${text.slice(0, begin + open.length)}\n${content}\n${text.slice(end)}`;
}

export function writeTables(text, report) {
  const parts = {
    machine: machineText(report),
    targets: targetsTable(report),
    comparison: comparisonTable(report),
    cases: casesTable(report),
  };
  return Object.entries(parts).reduce((filled, [name, content]) => fill(filled, name, content), text);
}

async function main() {
  const { values } = parseArgs({
    options: {
      save: { type: 'string' },
      from: { type: 'string' },
      quick: { type: 'boolean', default: false },
    },
  });
  const keep = (report) => values.save && writeFileSync(values.save, JSON.stringify(report, null, 2));
  const report = values.from
    ? JSON.parse(readFileSync(values.from, 'utf8'))
    : await measure(values.quick, keep);
  keep(report);
  if (values.quick) return console.log(targetsTable(report));
  writeFileSync(DOCS, writeTables(readFileSync(DOCS, 'utf8'), report));
  say(`wrote ${DOCS}`);
}

if (process.argv[1] === import.meta.filename) {
  try {
    await main();
  } catch (error) {
    console.error(`anneal: error: ${error.message}`);
    process.exitCode = 1;
  }
}
