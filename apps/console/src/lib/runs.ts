import type { ConsoleRun } from '@anneal/types/console';

/** What a run is called: the name that its owner gave, or the beginning of its session's id and its number. */
export function runLabel(run: Pick<ConsoleRun, 'run_id' | 'session_name' | 'user_metadata'>): string {
  const [session = '', , number = '0'] = run.run_id.split(':');
  const given = run.user_metadata?.name ?? run.user_metadata?.display_name ?? run.session_name;
  return given ? (number === '0' ? given : `${given} #${number}`) : `${session.slice(0, 8)} #${number}`;
}

export function runPath(runId: string): string {
  return `/runs/${encodeURIComponent(runId)}`;
}
