import { tracingSettings } from './settings.ts';
import type { Tracing } from './tracing.ts';

/**
 * Traces as the environment asks for them. Nothing of OpenTelemetry is loaded while they are off.
 *
 * @throws StartError for a variable that cannot be honoured
 */
export async function openTracing(env: NodeJS.ProcessEnv): Promise<Tracing | undefined> {
  const settings = tracingSettings(env);
  if (!settings) return undefined;
  const { exportTraces } = await import('./export-traces.ts');
  return exportTraces(settings);
}
