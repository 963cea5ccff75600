import type { ConsoleRun } from '@anneal/types/console';

/** What a run is called: `name` of its metadata, or its session and its number there. */
export function runLabel(run: Pick<ConsoleRun, 'run_id' | 'session_name' | 'user_metadata'>): string {
  const [session = '', , number = '0'] = run.run_id.split(':');
  return run.user_metadata?.name ?? `${run.session_name ?? session.slice(0, 8)} #${number}`;
}

export function runPath(runId: string): string {
  return `/runs/${encodeURIComponent(runId)}`;
}
