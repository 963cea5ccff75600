import { readFile, realpath, stat } from 'node:fs/promises';
import { relative, resolve, sep } from 'node:path';
import { ApiError } from '../errors.ts';

/** Larger files are no images that anybody would train on. */
const MAX_BYTES = 2 ** 26;

/** Images that requests name instead of sending them: files of one folder, which every owner may read. */
export class AssetStore {
  readonly #folder: string | undefined;

  /** @param folder Absent: there are no assets, and whoever names one is told. */
  constructor(folder: string | undefined) {
    this.#folder = folder;
  }

  /**
   * The bytes of an asset.
   *
   * @param name How messages name the chunk.
   * @throws ApiError for what is no file of the folder.
   */
  async read(location: string, name: string): Promise<Uint8Array> {
    const refuse = (problem: string, cause?: unknown) =>
      new ApiError('invalid_request', `${name}.location "${location}" ${problem}`, { cause });
    if (this.#folder === undefined)
      throw refuse('names an asset, and this server has none (its setting assetsDir): send the image itself');
    if (/^[a-z][a-z\d+.-]+:/i.test(location))
      throw refuse(
        'is a URL: this server reads paths in its own folder of assets only; send the image itself',
      );
    try {
      const folder = await realpath(this.#folder);
      const file = await realpath(resolve(folder, location));
      if (!isInside(folder, file)) throw refuse('is not in the folder of assets');
      const { size } = await stat(file);
      if (size > MAX_BYTES) throw refuse(`has ${size} bytes: at most ${MAX_BYTES} are read`);
      return await readFile(file);
    } catch (cause) {
      if (cause instanceof ApiError) throw cause;
      throw refuse('is no file in the folder of assets', cause);
    }
  }
}

function isInside(folder: string, file: string): boolean {
  const path = relative(folder, file);
  return path !== '' && path !== '..' && !path.startsWith(`..${sep}`);
}
