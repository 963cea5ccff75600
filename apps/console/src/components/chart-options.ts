import uPlot from 'uplot';
import { formatCount, formatMetric } from '../lib/format.ts';
import { resolveColor } from '../lib/theme.ts';

/** One curve. */
export interface Line {
  label: string;
  /** Number of a colour of the palette, from 0. */
  color: number;
  values: (number | null)[];
  /** Drawn faintly behind: the values before they were smoothed. */
  raw?: (number | null)[];
}

export interface ChartLook {
  /** What the horizontal axis counts. */
  x: 'step' | 'time' | 'minutes' | 'ago';
  log: boolean;
  kind: 'line' | 'bar';
  /** Begin the vertical axis at zero. */
  fromZero: boolean;
  format: (value: number) => string;
}

export const PALETTE = 8;

export function colorVariable(color: number): string {
  return `--series-${(color % PALETTE) + 1}`;
}

const FONT = '11px "Inter Variable", system-ui, sans-serif';
const dayFormat = new Intl.DateTimeFormat('en', { month: 'short', day: 'numeric' });
const clockFormat = new Intl.DateTimeFormat('en', { hour: '2-digit', minute: '2-digit', hour12: false });

function formatMinutesAgo(minutes: number): string {
  if (minutes > -0.02) return 'now';
  return minutes > -1
    ? `${Math.round(60 * minutes)} s`
    : `${formatMetric(Math.round(10 * minutes) / 10)} min`;
}

/** The label of a place on the horizontal axis. */
export function formatX(look: ChartLook, value: number): string {
  if (look.x === 'step') return formatCount(value);
  if (look.x === 'minutes') return `${formatMetric(Math.round(value * 10) / 10)} min`;
  if (look.x === 'ago') return formatMinutesAgo(value);
  const date = new Date(value * 1000);
  return look.kind === 'bar' ? dayFormat.format(date) : clockFormat.format(date);
}

export function chartOptions(
  lines: Pick<Line, 'label' | 'color' | 'raw'>[],
  look: ChartLook,
  size: { width: number; height: number },
): uPlot.Options {
  const axis = resolveColor('--muted');
  const grid = resolveColor('--grid');
  const common = {
    font: FONT,
    stroke: axis,
    grid: { stroke: grid, width: 1 },
    ticks: { show: false },
  };
  return {
    ...size,
    padding: [10, 12, 0, 0],
    cursor: {
      points: { size: 7, width: 2 },
      focus: { prox: 24 },
      drag: { x: look.kind === 'line', y: false },
      y: false,
    },
    legend: { show: false },
    scales: {
      x: { time: false, ...(look.kind === 'bar' ? { range: paddedRange } : {}) },
      y: look.log ? { distr: 3 } : { range: (_plot, min, max) => yRange(look, min, max) },
    },
    axes: [
      {
        ...common,
        size: 20,
        space: 64,
        incrs: look.x === 'time' ? timeSteps(look.kind) : undefined,
        values: (_plot, ticks) => ticks.map((tick) => formatX(look, tick)),
      },
      {
        ...common,
        size: 58,
        space: 36,
        values: (_plot, ticks) => ticks.map((tick) => (tick === null ? '' : look.format(tick))),
      },
    ],
    series: [{}, ...lines.flatMap((line) => seriesOf(line, look))],
  };
}

/** Numbers of the drawn series that belong to lines, not to what is behind them. */
export function mainSeries(lines: Pick<Line, 'raw'>[]): number[] {
  let next = 1;
  return lines.map(({ raw }) => {
    if (raw) next += 1;
    return next++;
  });
}

function seriesOf({ label, color, raw }: Pick<Line, 'label' | 'color' | 'raw'>, look: ChartLook) {
  const stroke = resolveColor(colorVariable(color));
  const points = { show: false };
  const bars = uPlot.paths.bars?.({ size: [0.7, 32], radius: 0.15 });
  const main: uPlot.Series = {
    label,
    stroke,
    width: look.kind === 'bar' ? 0 : 1.75,
    ...(look.kind === 'bar' && bars ? { paths: bars, fill: stroke } : {}),
    spanGaps: true,
    // A run's first step is a point, which no line shows.
    points: look.kind === 'bar' ? points : { show: (plot, at) => isAlone(plot, at), size: 5, fill: stroke },
  };
  const behind: uPlot.Series = { label, stroke, width: 1, alpha: 0.28, spanGaps: true, points };
  return raw ? [behind, main] : [main];
}

function isAlone(plot: uPlot, at: number): boolean {
  const values = Array.from(plot.data[at] ?? []);
  return values.filter((value) => value !== null && value !== undefined).length === 1;
}

function paddedRange(_plot: uPlot, min: number, max: number): [number, number] {
  const day = 86_400;
  return [min - day * 0.6, max + day * 0.6];
}

function yRange(look: ChartLook, min: number | null, max: number | null): [number, number] {
  if (min === null || max === null) return [0, 1];
  const low = look.fromZero ? Math.min(0, min) : min;
  const room = (max - low) * 0.06 || Math.abs(max) * 0.1 || 1;
  return [look.fromZero && low === 0 ? 0 : low - room, max + room];
}

function timeSteps(kind: ChartLook['kind']): number[] {
  const day = 86_400;
  if (kind === 'bar') return [day, 2 * day, 5 * day, 7 * day, 14 * day, 30 * day];
  return [60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, day, 2 * day, 7 * day];
}
