/**
 * SSH public keys as age recipients, as the `age` tool reads them. Source: filippo.io/age/agessh, and the notes on the
 * `ssh-ed25519` and `ssh-rsa` stanzas in its format specification.
 */
import {
  constants,
  createCipheriv,
  createHash,
  createPublicKey,
  hkdfSync,
  publicEncrypt,
  randomBytes,
} from 'node:crypto';
import { ed25519, x25519 } from '@noble/curves/ed25519.js';
import { type Recipient, Stanza } from 'age-encryption';

const ED25519_INFO = 'age-encryption.org/v1/ssh-ed25519';
const RSA_LABEL = 'age-encryption.org/v1/ssh-rsa';
const MIN_RSA_BITS = 2048;

/**
 * A recipient from a line of an `authorized_keys` file.
 *
 * @throws Error when it is no `ssh-ed25519` or `ssh-rsa` key.
 */
export function sshRecipient(line: string): Recipient {
  const [type, base64 = ''] = line.trim().split(/\s+/);
  const wire = Buffer.from(base64, 'base64');
  const fields = readFields(wire);
  if (fields[0]?.toString() !== type) throw new Error('the key does not hold what its first word says');
  const tag = base64NoPad(createHash('sha256').update(wire).digest().subarray(0, 4));
  if (type === 'ssh-ed25519') return ed25519Recipient(wire, tag, fields[1]);
  if (type === 'ssh-rsa') return rsaRecipient(tag, fields[1], fields[2]);
  throw new Error(`keys of type "${type}" cannot encrypt: use ssh-ed25519 or ssh-rsa`);
}

function ed25519Recipient(wire: Buffer, tag: string, point: Buffer | undefined): Recipient {
  if (point?.length !== 32) throw new Error('an ssh-ed25519 key has 32 bytes');
  const key = ed25519.utils.toMontgomery(point);
  return {
    wrapFileKey: (fileKey) => {
      const secret = randomBytes(32);
      const share = x25519.scalarMultBase(secret);
      const tweak = hkdf(Buffer.alloc(0), wire, ED25519_INFO);
      const shared = x25519.scalarMult(tweak, x25519.scalarMult(secret, key));
      const wrapKey = hkdf(shared, Buffer.concat([share, key]), ED25519_INFO);
      return [new Stanza(['ssh-ed25519', tag, base64NoPad(share)], seal(wrapKey, fileKey))];
    },
  };
}

function rsaRecipient(tag: string, exponent: Buffer | undefined, modulus: Buffer | undefined): Recipient {
  if (!exponent || !modulus) throw new Error('an ssh-rsa key has an exponent and a modulus');
  const n = modulus[0] === 0 ? modulus.subarray(1) : modulus;
  if (n.length * 8 < MIN_RSA_BITS) throw new Error(`an ssh-rsa key must have ${MIN_RSA_BITS} bits or more`);
  const jwk = { kty: 'RSA', n: n.toString('base64url'), e: exponent.toString('base64url') };
  const key = createPublicKey({ key: jwk, format: 'jwk' });
  const padding = constants.RSA_PKCS1_OAEP_PADDING;
  const oaepLabel = Buffer.from(RSA_LABEL);
  return {
    wrapFileKey: (fileKey) => {
      const body = publicEncrypt({ key, padding, oaepHash: 'sha256', oaepLabel }, fileKey);
      return [new Stanza(['ssh-rsa', tag], body)];
    },
  };
}

/** The length-prefixed strings of an SSH key. */
function readFields(wire: Buffer): Buffer[] {
  const fields: Buffer[] = [];
  for (let position = 0; position + 4 <= wire.length; ) {
    const end = position + 4 + wire.readUInt32BE(position);
    if (end > wire.length) throw new Error('the key is cut off');
    fields.push(wire.subarray(position + 4, end));
    position = end;
  }
  return fields;
}

function hkdf(secret: Uint8Array, salt: Uint8Array, info: string): Uint8Array {
  return new Uint8Array(hkdfSync('sha256', secret, salt, info, 32));
}

/** ChaCha20-Poly1305 with a zero nonce: each key seals once. */
function seal(key: Uint8Array, plain: Uint8Array): Uint8Array {
  const cipher = createCipheriv('chacha20-poly1305', key, Buffer.alloc(12), { authTagLength: 16 });
  return Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

function base64NoPad(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64').replaceAll('=', '');
}
