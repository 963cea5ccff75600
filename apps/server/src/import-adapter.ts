import { rm } from 'node:fs/promises';
import { type ImportBase, importPeft } from '@anneal/engine';
import type { Store } from '@anneal/store';
import { SaveWeightsRequest } from '@anneal/types';
import { ApiError } from './errors.ts';
import { CheckpointService, pathOf } from './services/checkpoints.ts';
import { toRunLora } from './services/lora-spec.ts';
import { endedSession, storedRun } from './services/stored-run.ts';

export interface AdapterImport {
  /** Where PEFT saved it. */
  folder: string;
  base: ImportBase;
  owner: string;
  /** Of the checkpoint. */
  name: string;
}

export interface ImportedCheckpoint {
  path: string;
  rank: number;
  alpha: number;
  sizeBytes: number;
  /** Modules that the adapter lacks and that were added without any effect. */
  added: string[];
}

/**
 * Lists an adapter that was trained elsewhere with PEFT as a checkpoint of `owner`, in a run of its own.
 *
 * @throws EngineError (user) when the adapter does not fit the base model, or our LoRA cannot be what it is.
 */
export async function importAdapter(store: Store, request: AdapterImport): Promise<ImportedCheckpoint> {
  const { owner, base } = request;
  const name = checkedName(request.name);
  const checkpoints = new CheckpointService(store);
  const written = await checkpoints.scratch();
  try {
    const { lora, added } = await importPeft(request.folder, written, base);
    const session = endedSession(owner, null);
    const run = storedRun(session, 0, { baseModel: base.name, lora: toRunLora(lora), userMetadata: null });
    await store.sessions.create(session);
    await store.runs.create(run);
    const saved = await checkpoints.save(run, written, { kind: 'weights', name });
    return { path: pathOf(saved), rank: lora.rank, alpha: lora.alpha, sizeBytes: saved.sizeBytes, added };
  } finally {
    await rm(written, { recursive: true, force: true });
  }
}

function checkedName(name: string): string {
  const parsed = SaveWeightsRequest.shape.path.safeParse(name);
  if (parsed.success && parsed.data) return parsed.data;
  throw new ApiError('invalid_request', `name "${name}": ${parsed.error?.issues[0]?.message}`);
}
