import {
  constants,
  createDecipheriv,
  createHash,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  privateDecrypt,
} from 'node:crypto';
import { Decrypter, Encrypter, type Identity, type Stanza } from 'age-encryption';
import { expect, test } from 'vitest';
import { sshRecipient } from '../src/services/ssh-recipient.ts';

const field = (bytes: Buffer): Buffer => {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
};
const unsigned = (text = ''): Buffer => {
  const bytes = Buffer.from(text, 'base64url');
  return (bytes[0] ?? 0) >= 128 ? Buffer.concat([Buffer.from([0]), bytes]) : bytes;
};
const line = (type: string, ...fields: Buffer[]): string =>
  `${type} ${Buffer.concat([Buffer.from(type), ...fields].map(field)).toString('base64')} ada@example`;

const X25519_PKCS8 = Buffer.from('302e020100300506032b656e04220420', 'hex');
const X25519_SPKI = Buffer.from('302a300506032b656e032100', 'hex');
const secretKey = (raw: Uint8Array): KeyObject =>
  createPrivateKey({ key: Buffer.concat([X25519_PKCS8, raw]), format: 'der', type: 'pkcs8' });
const publicKey = (raw: Uint8Array): KeyObject =>
  createPublicKey({ key: Buffer.concat([X25519_SPKI, raw]), format: 'der', type: 'spki' });
const rawPublic = (secret: KeyObject): Buffer =>
  createPublicKey(secret).export({ format: 'der', type: 'spki' }).subarray(-32);

/** The receiving side, with OpenSSL's arithmetic instead of that of the code under test. */
function ed25519Identity(seed: Buffer, sshLine: string): Identity {
  const wire = Buffer.from(sshLine.split(' ')[1] ?? '', 'base64');
  const info = 'age-encryption.org/v1/ssh-ed25519';
  const scalar = secretKey(createHash('sha512').update(seed).digest().subarray(0, 32));
  return {
    unwrapFileKey: (stanzas: Stanza[]) => {
      const stanza = stanzas.find(({ args }) => args[0] === 'ssh-ed25519')!;
      const share = Buffer.from(stanza.args[2] ?? '', 'base64');
      const tweak = secretKey(Buffer.from(hkdfSync('sha256', Buffer.alloc(0), wire, info, 32)));
      const first = diffieHellman({ privateKey: scalar, publicKey: publicKey(share) });
      const shared = diffieHellman({ privateKey: tweak, publicKey: publicKey(first) });
      const salt = Buffer.concat([share, rawPublic(scalar)]);
      const key = Buffer.from(hkdfSync('sha256', shared, salt, info, 32));
      const open = createDecipheriv('chacha20-poly1305', key, Buffer.alloc(12), { authTagLength: 16 });
      open.setAuthTag(stanza.body.subarray(-16));
      return new Uint8Array(Buffer.concat([open.update(stanza.body.subarray(0, -16)), open.final()]));
    },
  };
}

async function roundTrip(recipient: string, identity: Identity): Promise<string> {
  const encrypter = new Encrypter();
  encrypter.addRecipient(sshRecipient(recipient));
  const decrypter = new Decrypter();
  decrypter.addIdentity(identity);
  return await decrypter.decrypt(await encrypter.encrypt('adapter'), 'text');
}

test('the owner of an ssh-ed25519 key reads what was encrypted for it', async () => {
  const { privateKey, publicKey: key } = generateKeyPairSync('ed25519');
  const seed = privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(-32);
  const recipient = line('ssh-ed25519', key.export({ format: 'der', type: 'spki' }).subarray(-32));
  expect(await roundTrip(recipient, ed25519Identity(seed, recipient))).toBe('adapter');
});

test('the owner of an ssh-rsa key reads what was encrypted for it', async () => {
  const { privateKey, publicKey: key } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const { n, e } = key.export({ format: 'jwk' });
  const identity: Identity = {
    unwrapFileKey: (stanzas) => {
      const padding = constants.RSA_PKCS1_OAEP_PADDING;
      const oaepLabel = Buffer.from('age-encryption.org/v1/ssh-rsa');
      const options = { key: privateKey, padding, oaepHash: 'sha256', oaepLabel };
      return new Uint8Array(privateDecrypt(options, stanzas.find(({ args }) => args[0] === 'ssh-rsa')!.body));
    },
  };
  expect(await roundTrip(line('ssh-rsa', unsigned(e), unsigned(n)), identity)).toBe('adapter');
});

test('keys that cannot encrypt are refused', () => {
  const weak = generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey.export({ format: 'jwk' });
  const cases: [string, RegExp][] = [
    [line('ssh-rsa', unsigned(weak.e), unsigned(weak.n)), /2048 bits/],
    [line('ssh-ed25519', Buffer.alloc(31)), /32 bytes/],
    [line('ssh-dss', Buffer.alloc(8)), /ssh-dss/],
    ['ssh-ed25519 AAAAC3NzaC1yc2E=', /cut off|first word/],
    ['ssh-ed25519', /first word/],
  ];
  for (const [key, message] of cases) expect(() => sshRecipient(key)).toThrow(message);
});
