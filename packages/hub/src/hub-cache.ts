// The cache layout of Python's huggingface_hub, shared with it: blobs/ by checksum, snapshots/COMMIT/ with links to
// them, refs/BRANCH with the commit. https://huggingface.co/docs/huggingface_hub/guides/manage-cache
import { copyFile, mkdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { errorCode, pathExists } from './cache-folder.ts';
import { missingFiles } from './checkpoint-folder.ts';

const COMMIT = /^[0-9a-f]{40}$/;

/** The folder of one model in the hub's cache. */
export class HubCacheEntry {
  readonly folder: string;

  constructor(cacheDir: string, model: string) {
    this.folder = path.join(cacheDir, `models--${model.replaceAll('/', '--')}`);
  }

  snapshotFolder(commit: string): string {
    return path.join(this.folder, 'snapshots', commit);
  }

  blobPath(checksum: string): string {
    return path.join(this.folder, 'blobs', checksum);
  }

  /** The snapshot of a branch, tag or commit as far as it is known here, and what it lacks. */
  async findSnapshot(
    revision: string,
  ): Promise<{ commit: string; folder: string; missing: string[] } | undefined> {
    const commit = COMMIT.test(revision) ? revision : await this.#readRef(revision);
    if (commit === undefined) return undefined;
    const folder = this.snapshotFolder(commit);
    if (!(await pathExists(folder))) return undefined;
    return { commit, folder, missing: await missingFiles(folder) };
  }

  /** Makes a blob appear in a snapshot: a relative link as Python makes it, or a copy where links are not allowed. */
  async link(checksum: string, commit: string, file: string): Promise<void> {
    const target = path.join(this.snapshotFolder(commit), file);
    await mkdir(path.dirname(target), { recursive: true });
    if (await pathExists(target)) return;
    await rm(target, { force: true });
    const blob = this.blobPath(checksum);
    try {
      await symlink(path.relative(path.dirname(target), blob), target);
    } catch (error) {
      if (errorCode(error) === 'EEXIST') return;
      if (errorCode(error) !== 'EPERM') throw error;
      await copyFile(blob, `${target}.tmp`);
      await rename(`${target}.tmp`, target);
    }
  }

  /** Records which commit a branch or tag points to. */
  async writeRef(revision: string, commit: string): Promise<void> {
    if (COMMIT.test(revision)) return;
    const file = path.join(this.folder, 'refs', revision);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(`${file}.tmp`, commit);
    await rename(`${file}.tmp`, file);
  }

  async #readRef(revision: string): Promise<string | undefined> {
    const text = await readFile(path.join(this.folder, 'refs', revision), 'utf8').catch(() => undefined);
    const commit = text?.trim();
    return commit && COMMIT.test(commit) ? commit : undefined;
  }
}
