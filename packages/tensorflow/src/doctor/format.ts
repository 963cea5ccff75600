/** Renders a doctor's report as text for a terminal. */
import type { Check } from './checks.ts';
import type { GpuReport } from './devices.ts';
import type { DoctorReport } from './doctor.ts';

const BACKENDS = {
  addon: "Anneal's own addon: compiled functions, fp32 and bf16",
  stock: "tfjs-node's stock binding: eager, fp32",
  wasm: 'WebAssembly: eager, fp32, slow',
};

/** Aligned `label  value` lines, ending with a newline. */
export function formatDoctorReport(report: DoctorReport): string {
  const { backend, versions, cpu, memory, gpus, matmul } = report;
  const rows: [string, string][] = [
    ['Backend', `${BACKENDS[backend.kind]}, on the ${backend.usesGpu ? 'GPU' : 'CPU'}`],
    ...backend.notes.map((note): [string, string] => ['', note]),
    ['Addon', backend.addonPath ?? 'none'],
    ['Cache', report.cacheDir],
    [
      'Versions',
      `Node.js ${versions.node}, TensorFlow ${versions.tensorflow ?? 'none'}, tfjs ${versions.tfjs}`,
    ],
    ['CPU', `${cpu.model}, ${cpu.cores} threads${features(cpu.features)}`],
    ['Memory', `${gigabytes(memory.totalBytes)}, ${gigabytes(memory.availableBytes)} available`],
    ...gpuRows(gpus),
    ['Compiled functions', verdict(report.compiledFunctions)],
    ['XLA', verdict(report.xla)],
    ['bf16', verdict(report.bf16)],
    ['Matrix product', `${matmul.size}×${matmul.size}×${matmul.size}: ${rates(matmul)}`],
  ];
  const width = Math.max(...rows.map(([label]) => label.length));
  return rows.map(([label, value]) => `${label.padEnd(width)}  ${indent(value, width + 2)}\n`).join('');
}

function indent(value: string, columns: number): string {
  return value.trim().replaceAll('\n', `\n${' '.repeat(columns)}`);
}

function features(present: Record<string, boolean>): string {
  const list = Object.entries(present).map(([name, has]) => `${has ? '' : 'no '}${name}`);
  return list.length > 0 ? ` (${list.join(', ')})` : '';
}

function gpuRows(gpus: GpuReport[]): [string, string][] {
  if (gpus.length === 0) return [['GPU', 'none']];
  return gpus.map((gpu) => [
    'GPU',
    `${gpu.name}, ${gigabytes(gpu.totalBytes)}, ${gigabytes(gpu.freeBytes)} free, driver ${gpu.driver}`,
  ]);
}

const VERDICTS = { ok: 'ok', failed: 'FAILED', unavailable: 'not available' };

function verdict({ status, detail }: Check): string {
  return `${VERDICTS[status]}: ${detail}`;
}

function rates({ fp32, bf16 }: DoctorReport['matmul']): string {
  const rate = (value: number) => `${value < 10 ? value.toFixed(1) : Math.round(value)} GFLOP/s`;
  return `fp32 ${rate(fp32)}${bf16 === undefined ? '' : `, bf16 ${rate(bf16)}`}`;
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
