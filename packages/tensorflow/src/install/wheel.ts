/** Reads wheels: a zip of the files that are installed, and of `*.dist-info/METADATA`. */
import { createWriteStream } from 'node:fs';
import { chmod, mkdir } from 'node:fs/promises';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { type Entry, openPromise } from 'yauzl';

/** Unpacks the files of a wheel that `wanted` accepts, keeping their paths and executable bits. */
export async function unpackWheel(
  wheel: string,
  folder: string,
  wanted: (file: string) => boolean,
): Promise<void> {
  const zip = await openPromise(wheel, { lazyEntries: true, autoClose: true });
  for await (const entry of zip.eachEntry()) {
    if (entry.fileName.endsWith('/') || !wanted(entry.fileName)) continue;
    const target = path.join(folder, entry.fileName);
    await mkdir(path.dirname(target), { recursive: true });
    await pipeline(await zip.openReadStreamPromise(entry), createWriteStream(target));
    if (isExecutable(entry)) await chmod(target, 0o755);
  }
}

function isExecutable(entry: Entry): boolean {
  return ((entry.externalFileAttributes >>> 16) & 0o111) !== 0;
}

/** Requirements of one extra, as pip takes them: `Requires-Dist: NAME<3,>=2; extra == "EXTRA"` gives `NAME<3,>=2`. */
export async function readExtraRequirements(wheel: string, extra: string): Promise<string[]> {
  const metadata = await readMetadata(wheel);
  const pattern = /^Requires-Dist: ([^;\n]+); extra == ["']([^"']+)["']\s*$/gm;
  return [...metadata.matchAll(pattern)]
    .filter((match) => match[2] === extra)
    .map((match) => match[1]!.trim());
}

async function readMetadata(wheel: string): Promise<string> {
  const zip = await openPromise(wheel, { lazyEntries: true, autoClose: false });
  try {
    for await (const entry of zip.eachEntry()) {
      if (/^[^/]+\.dist-info\/METADATA$/.test(entry.fileName))
        return await text(await zip.openReadStreamPromise(entry));
    }
    return '';
  } finally {
    zip.close();
  }
}
