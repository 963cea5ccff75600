/** Shows how far the fetching or uploading of a model is: bars on a terminal, one line per step elsewhere. */
import { formatBytes, type OnProgress, type ProgressEvent } from '@anneal/hub';
import { MultiBar, Presets, type SingleBar } from 'cli-progress';

export interface ModelProgress {
  onProgress: OnProgress;
  /** To be called when nothing more will come. */
  stop(): void;
}

type FileProgress = Extract<ProgressEvent, { type: 'progress' }>;

const VERBS = { download: 'Downloading', convert: 'Converting', upload: 'Uploading' };

export function modelProgress(stream: NodeJS.WriteStream = process.stderr): ModelProgress {
  return stream.isTTY && !process.env.CI ? bars(stream) : lines(stream);
}

function lines(stream: NodeJS.WritableStream): ModelProgress {
  const begun = new Set<string>();
  const onProgress: OnProgress = (event) => {
    if (event.type === 'message') {
      stream.write(`${event.message}\n`);
      return;
    }
    const line = `${VERBS[event.step]} ${event.file} (${formatBytes(event.totalBytes)})`;
    if (!begun.has(line)) stream.write(`${line}\n`);
    begun.add(line);
  };
  return { onProgress, stop: () => {} };
}

function bars(stream: NodeJS.WriteStream): ModelProgress {
  const format = '{bar} {percentage}%  {text}';
  const multi = new MultiBar({ format, stream, hideCursor: true, barsize: 24 }, Presets.shades_classic);
  const shown = new Map<string, SingleBar>();
  const onProgress: OnProgress = (event) => {
    if (event.type === 'message') {
      multi.log(`${event.message}\n`);
      return;
    }
    const key = `${event.step} ${event.file}`;
    const bar = shown.get(key) ?? multi.create(event.totalBytes, 0, { text: textOf(event) });
    shown.set(key, bar);
    bar.update(event.receivedBytes, { text: textOf(event) });
  };
  return { onProgress, stop: () => multi.stop() };
}

function textOf({ step, file, receivedBytes, totalBytes }: FileProgress): string {
  return `${formatBytes(receivedBytes)} of ${formatBytes(totalBytes)}  ${VERBS[step]} ${file}`;
}
