// biome-ignore-all lint/a11y/noNoninteractiveTabindex: arrow keys move along the curves
// biome-ignore-all lint/a11y/useSemanticElements: a chart is no fieldset
import { type KeyboardEvent, useEffect, useLayoutEffect, useMemo, useRef, useState } from 'react';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { formatMetric } from '../lib/format.ts';
import { useScheme } from '../lib/theme.ts';
import {
  type ChartLook,
  chartOptions,
  colorVariable,
  formatX,
  type Line,
  mainSeries,
} from './chart-options.ts';

interface ChartProps {
  /** What is shown, for those who cannot see it. */
  label: string;
  x: number[];
  lines: Line[];
  height?: number;
  look?: Partial<ChartLook>;
  /** Values at the pointer appear above the curves; otherwise the latest ones do not show either. */
  legend?: boolean;
}

const DEFAULT: ChartLook = { x: 'step', log: false, kind: 'line', fromZero: false, format: formatMetric };

/** How far each key moves along the curves. */
const MOVES: Record<string, number> = {
  ArrowLeft: -1,
  ArrowRight: 1,
  PageUp: -10,
  PageDown: 10,
  Home: Number.NEGATIVE_INFINITY,
  End: Number.POSITIVE_INFINITY,
};

/** Curves over a common axis. Drag to zoom, double-click to see all; with the keyboard, arrows move along the curves. */
export function Chart({ label, x, lines, height = 240, look, legend = true }: ChartProps) {
  const { x: axis, log, kind, fromZero, format } = { ...DEFAULT, ...look };
  const full = useMemo(() => ({ x: axis, log, kind, fromZero, format }), [axis, log, kind, fromZero, format]);
  const frame = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const scheme = useScheme();
  const [at, setAt] = useState<number | null>(null);
  const shape = JSON.stringify([
    lines.map(({ label, color, raw }) => [label, color, raw !== undefined]),
    full.log,
    scheme,
  ]);
  const data = useMemo(() => {
    const drawable = (values: (number | null)[]) =>
      full.log ? values.map((value) => (value !== null && value > 0 ? value : null)) : values;
    return [
      x,
      ...lines.flatMap(({ raw, values }) => (raw ? [drawable(raw), drawable(values)] : [drawable(values)])),
    ];
  }, [x, lines, full.log]);
  const latest = useRef({ data, lines });
  latest.current = { data, lines };

  // biome-ignore lint/correctness/useExhaustiveDependencies: `shape` stands for the lines; new values alone need no new plot
  useLayoutEffect(() => {
    const element = frame.current;
    if (!element) return;
    const options = chartOptions(latest.current.lines, full, { width: element.clientWidth, height });
    const made = new uPlot(
      { ...options, hooks: { setCursor: [(self) => setAt(self.cursor.idx ?? null)] } },
      latest.current.data as uPlot.AlignedData,
      element,
    );
    plot.current = made;
    const resize = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height }));
    resize.observe(element);
    return () => {
      resize.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape, full, height]);

  useEffect(() => {
    const current = plot.current;
    if (!current || current.data === (data as unknown)) return;
    const { min, max } = current.scales.x ?? {};
    const isZoomed =
      min != null &&
      max != null &&
      current.data[0].length > 1 &&
      (min > (current.data[0][0] ?? 0) || max < (current.data[0].at(-1) ?? 0));
    current.setData(data as uPlot.AlignedData, !isZoomed);
    if (isZoomed) current.redraw();
  }, [data]);

  const move = (event: KeyboardEvent): void => {
    const current = plot.current;
    const by = MOVES[event.key];
    if (!current || by === undefined || x.length === 0) return;
    event.preventDefault();
    const index = Math.min(Math.max((at ?? x.length) + by, 0), x.length - 1);
    const left = current.valToPos(x[index] ?? 0, 'x');
    current.setCursor({ left, top: 0 });
    setAt(index);
  };

  const shown = at ?? x.length - 1;
  return (
    <div className="chart">
      {legend && (
        <div className="chart-legend" aria-live={at === null ? 'off' : 'polite'}>
          <span className="chart-x">
            {x.length > 0 ? `${full.x === 'step' ? 'step ' : ''}${formatX(full, x[shown] ?? 0)}` : ' '}
          </span>
          {lines.map((line, index) => (
            <span key={line.label} className="chart-key">
              <i className="swatch" style={{ background: `var(${colorVariable(line.color)})` }} />
              <span className="chart-name">{line.label}</span>
              <b>{valueAt(line, shown, full, data, index, lines)}</b>
            </span>
          ))}
        </div>
      )}
      <div
        ref={frame}
        className="chart-frame"
        style={{ height }}
        role="group"
        aria-label={`${label}. Arrow keys move along the curves.`}
        tabIndex={0}
        onKeyDown={move}
        onBlur={() => plot.current?.setCursor({ left: -10, top: -10 })}
      />
    </div>
  );
}

/** The line's value there, or the nearest one before: joined lines have gaps where another one has a point. */
function valueAt(
  line: Line,
  shown: number,
  look: ChartLook,
  data: (number | null)[][],
  index: number,
  lines: Line[],
): string {
  const values = data[mainSeries(lines)[index] ?? 0] ?? line.values;
  for (let at = shown; at >= 0; at -= 1) {
    const value = values[at];
    if (value !== null && value !== undefined) return look.format(value);
  }
  return '–';
}
