import type { ModelSource } from './errors.ts';

/** What happens while a model is fetched or uploaded: a sentence for people, or how far a file is. */
export type ProgressEvent =
  | { readonly type: 'message'; readonly source: ModelSource; readonly message: string }
  | {
      readonly type: 'progress';
      readonly source: ModelSource;
      /** What is being done to the file. */
      readonly step: 'download' | 'convert' | 'upload';
      readonly file: string;
      readonly receivedBytes: number;
      readonly totalBytes: number;
    };

export type OnProgress = (event: ProgressEvent) => void;

/** "93 MB", "1.2 GB": decimal units, as hubs and disks are labelled. */
export function formatBytes(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(1)} GB`;
  if (bytes >= 1e6) return `${Math.round(bytes / 1e6)} MB`;
  return `${Math.ceil(bytes / 1e3)} kB`;
}
