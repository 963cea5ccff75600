import type { ConsoleRun } from '@anneal/types/console';
import { Link } from 'wouter';
import { formatAge, formatMetric, formatTime, shortModel } from '../lib/format.ts';
import { useNow } from '../lib/now.ts';
import { runLabel, runPath } from '../lib/runs.ts';
import { colorVariable } from './chart-options.ts';
import { TableFrame } from './table-frame.tsx';

interface RunTableProps {
  runs: ConsoleRun[];
  /** Runs whose curves are shown, by colour; absent where none can be. */
  selected?: Map<string, number>;
  onSelect?: (runId: string, on: boolean) => void;
}

/** Runs, a row each, with the state of their latest step. */
export function RunTable({ runs, selected, onSelect }: RunTableProps) {
  const now = useNow();
  return (
    <TableFrame label="Runs">
      <thead>
        <tr>
          {onSelect && (
            <th className="check">
              <span className="hidden">Show the curve</span>
            </th>
          )}
          <th>Run</th>
          <th>State</th>
          <th className="num">Step</th>
          <th className="num">Loss</th>
          <th className="num">Learning rate</th>
          <th className="num">Tokens/s</th>
          <th>Base model</th>
          <th className="num">Rank</th>
          <th>Last request</th>
        </tr>
      </thead>
      <tbody>
        {runs.map((run) => {
          const color = selected?.get(run.run_id);
          return (
            <tr key={run.run_id} className={color === undefined ? '' : 'row-selected'}>
              {onSelect && (
                <td className="check">
                  <input
                    type="checkbox"
                    aria-label={`Show the curve of ${runLabel(run)}`}
                    checked={color !== undefined}
                    style={color === undefined ? {} : { accentColor: `var(${colorVariable(color)})` }}
                    onChange={(event) => onSelect(run.run_id, event.target.checked)}
                  />
                </td>
              )}
              <td>
                <Link href={runPath(run.run_id)} title={run.run_id}>
                  {runLabel(run)}
                </Link>
              </td>
              <td>
                <span className={`state state-${run.state}`}>{run.state}</span>
                {run.corrupted && <span className="tag tag-bad">damaged checkpoint</span>}
              </td>
              <td className="num">{run.step ?? '–'}</td>
              <td className="num">{formatMetric(run.latest['loss:mean'] ?? run.latest['loss:sum'])}</td>
              <td className="num">{formatMetric(run.latest.learning_rate)}</td>
              <td className="num">{formatMetric(run.latest.tokens_per_second)}</td>
              <td title={run.base_model}>{shortModel(run.base_model)}</td>
              <td className="num">{run.lora.rank}</td>
              <td title={formatTime(run.last_request_at)}>{formatAge(run.last_request_at, now)}</td>
            </tr>
          );
        })}
      </tbody>
    </TableFrame>
  );
}
