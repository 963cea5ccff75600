import type { BlobStore } from './blob-store.ts';
import type { S3Options } from './s3-blobs.ts';

/**
 * Opens a bucket. The AWS SDK is loaded only now: most servers never need it.
 *
 * @throws Error that names the bucket when it cannot be reached.
 */
export async function openS3Blobs(options: S3Options): Promise<BlobStore> {
  const { S3Blobs } = await import('./s3-blobs.ts');
  return await S3Blobs.open(options);
}
