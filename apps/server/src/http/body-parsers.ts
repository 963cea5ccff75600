import { promisify } from 'node:util';
import { brotliDecompress, gunzip, inflate, zstdDecompress } from 'node:zlib';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { ApiError } from '../errors.ts';
import { parseJson } from '../wire/json.ts';

type Decompress = (data: Buffer, options: { maxOutputLength: number }) => Promise<Buffer>;

const decompressors: Record<string, Decompress> = {
  zstd: promisify(zstdDecompress) as Decompress,
  gzip: promisify(gunzip) as Decompress,
  deflate: promisify(inflate) as Decompress,
  br: promisify(brotliDecompress) as Decompress,
};

/** Reads JSON without losing digits, and protobuf as bytes; both may be compressed. */
export function addBodyParsers(app: FastifyInstance, bodyLimit: number): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    'application/json',
    { parseAs: 'buffer' },
    async (request: FastifyRequest, body: Buffer) => {
      const bytes = await plainBody(request, body, bodyLimit);
      return bytes.byteLength === 0 ? undefined : parseJson(bytes.toString('utf8'));
    },
  );
  app.addContentTypeParser(
    'application/x-protobuf',
    { parseAs: 'buffer' },
    (request: FastifyRequest, body: Buffer) => plainBody(request, body, bodyLimit),
  );
}

/** `limit` also bounds what a small compressed body may unfold to. */
async function plainBody(request: FastifyRequest, body: Buffer, limit: number): Promise<Buffer> {
  const encoding = request.headers['content-encoding'] ?? 'identity';
  if (encoding === 'identity' || body.byteLength === 0) return body;
  const decompress = decompressors[encoding];
  if (!decompress) {
    const known = Object.keys(decompressors).join(', ');
    throw new ApiError('unsupported_media_type', `Content-Encoding "${encoding}" is none of ${known}`);
  }
  try {
    return await decompress(body, { maxOutputLength: limit });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') {
      throw new ApiError('body_too_large', `The body unfolds to more than ${limit} bytes`, { cause });
    }
    const message = `The body is no valid ${encoding} data: ${(cause as Error).message}`;
    throw new ApiError('invalid_request', message, { cause });
  }
}
