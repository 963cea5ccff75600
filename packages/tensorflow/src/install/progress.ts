/** What `prepareTensorflow` reports while it works, and a renderer for terminals. */
import { MultiBar, Presets, type SingleBar } from 'cli-progress';

export type SetupStep = 'wait' | 'download' | 'unpack' | 'compile' | 'verify' | 'ready';

export interface SetupProgress {
  step: SetupStep;
  /** One line for a person, e.g. `Downloading tensorflow-cpu 2.21.0`. */
  message: string;
  receivedBytes?: number;
  /** May be an estimate. Absent where the step has no measure. */
  totalBytes?: number;
}

export type OnSetupProgress = (event: SetupProgress) => void;

/**
 * Shows setup progress: bars on a terminal, else one line per step.
 * @returns `onProgress` for `prepareTensorflow`, and `stop`, to be called when it has settled.
 */
export function terminalProgress(stream: NodeJS.WriteStream = process.stderr): {
  onProgress: OnSetupProgress;
  stop: () => void;
} {
  return stream.isTTY ? bars(stream) : lines(stream);
}

function lines(stream: NodeJS.WritableStream) {
  let last = '';
  const onProgress: OnSetupProgress = ({ message }) => {
    if (message !== last) stream.write(`${message}\n`);
    last = message;
  };
  return { onProgress, stop: () => {} };
}

function bars(stream: NodeJS.WriteStream) {
  const format = '{bar} {percentage}% {receivedMb}/{totalMb} MB  {message}';
  const byMessage = new Map<string, SingleBar>();
  const plain = lines(stream);
  // Made with the first bar: a start that finds everything in the cache must leave no trace on the terminal.
  let multi: MultiBar | undefined;
  let last = '';
  const onProgress: OnSetupProgress = (event) => {
    const { message, receivedBytes, totalBytes } = event;
    if (receivedBytes !== undefined && totalBytes !== undefined) {
      multi ??= new MultiBar({ format, stream, hideCursor: true, barsize: 24 }, Presets.shades_classic);
      const values = { message, receivedMb: megabytes(receivedBytes), totalMb: megabytes(totalBytes) };
      const bar = byMessage.get(message) ?? multi.create(totalBytes, receivedBytes, values);
      byMessage.set(message, bar);
      bar.update(receivedBytes, values);
    } else if (!multi) {
      plain.onProgress(event);
    } else if (message !== last) {
      last = message;
      multi.log(`${message}\n`);
      multi.update();
    }
  };
  return { onProgress, stop: () => multi?.stop() };
}

/** Whole decimal megabytes, as package indexes count them. */
export function megabytes(bytes: number): number {
  return Math.round(bytes / 1e6);
}
