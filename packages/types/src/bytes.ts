import * as z from 'zod';

const { base64ToUint8Array, uint8ArrayToBase64 } = z.core.util;

const Bytes = z.custom<Uint8Array>((value) => value instanceof Uint8Array);

/** Bytes that JSON carries as base64: accepts either, gives bytes. `z.encode` turns them into base64 again. */
export const Base64Bytes = z
  .codec(z.union([z.base64(), Bytes]), Bytes, {
    decode: (value) => (typeof value === 'string' ? base64ToUint8Array(value) : value),
    encode: (value) => uint8ArrayToBase64(new Uint8Array(value)),
  })
  .meta({ type: 'string', contentEncoding: 'base64' });
