/** What the engine needs before it can start. */
import { resolveModel } from '@anneal/hub';
import { prepareTensorflow, terminalProgress } from '@anneal/tensorflow';
import { CliError } from '../errors.ts';
import { modelProgress } from '../output/model-progress.ts';

/** The addon, and where the model lies; both are fetched where they are missing. */
export async function findModel(model: string): Promise<{ addonPath: string; folder: string; name: string }> {
  const addonPath = await findAddon();
  const progress = modelProgress();
  const { folder, name } = await resolveModel(model, { onProgress: progress.onProgress }).finally(
    progress.stop,
  );
  return { addonPath, folder, name };
}

async function findAddon(): Promise<string> {
  const progress = terminalProgress();
  const prepared = await prepareTensorflow({ onProgress: progress.onProgress }).finally(progress.stop);
  if (prepared.addonPath === undefined)
    throw new CliError(`TensorFlow can't be used here: ${prepared.notes.join(' ')}`);
  return prepared.addonPath;
}
