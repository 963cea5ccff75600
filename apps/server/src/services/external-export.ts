import { createReadStream, createWriteStream } from 'node:fs';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { writePeftFiles } from '@anneal/engine';
import { openSafetensors, writeSafetensors } from '@anneal/safetensors';
import { Encrypter } from 'age-encryption';
import { ApiError } from '../errors.ts';
import { sshRecipient } from './ssh-recipient.ts';

const WEIGHTS = 'adapter_model.safetensors';
const CONFIG = 'adapter_config.json';

/** Name of the output head in exported adapters, where our own checkpoints have Hugging Face's. */
const HEAD = /^base_model\.model\.lm_head\./;
const EXPORTED_HEAD = 'base_model.model.model.unembed_tokens.';

/**
 * Writes an adapter as PEFT files for download: the head is named as the API names it, and with recipients each file
 * is encrypted with age and ends in `.age`.
 *
 * @throws ApiError when a recipient is none.
 */
export async function exportFolder(from: string, to: string, recipients: readonly string[]): Promise<void> {
  const encrypter = recipients.length > 0 ? newEncrypter(recipients) : undefined;
  await writePeftFiles(from, to);
  await renameHead(join(to, WEIGHTS));
  await renameHeadTarget(join(to, CONFIG));
  if (encrypter) {
    for (const name of [WEIGHTS, CONFIG]) await encrypt(join(to, name), encrypter);
  }
}

async function renameHead(file: string): Promise<void> {
  const reader = openSafetensors(file);
  try {
    if (!reader.tensors.some(({ name }) => HEAD.test(name))) return;
    const tensors = reader.tensors.map(({ name, dtype, shape }) => ({
      name: name.replace(HEAD, EXPORTED_HEAD),
      dtype,
      shape,
      data: () => reader.read(name),
    }));
    await writeSafetensors(`${file}.renamed`, tensors, { ...reader.metadata });
    await rename(`${file}.renamed`, file);
  } finally {
    reader.close();
  }
}

async function renameHeadTarget(file: string): Promise<void> {
  const config: Record<string, unknown> = JSON.parse(await readFile(file, 'utf8'));
  if (Array.isArray(config.target_modules)) {
    config.target_modules = config.target_modules.map((name) =>
      name === 'lm_head' ? 'unembed_tokens' : name,
    );
  }
  await writeFile(file, `${JSON.stringify(config, null, 2)}\n`);
}

function newEncrypter(recipients: readonly string[]): Encrypter {
  const encrypter = new Encrypter();
  for (const recipient of recipients) {
    try {
      encrypter.addRecipient(recipient.startsWith('ssh-') ? sshRecipient(recipient) : recipient);
    } catch (cause) {
      const why = (cause as Error).message;
      const message = `age_encryption_recipients: "${recipient}" is no age recipient (age1... or an SSH key): ${why}`;
      throw new ApiError('invalid_request', message, { cause });
    }
  }
  return encrypter;
}

async function encrypt(path: string, encrypter: Encrypter): Promise<void> {
  const plain = Readable.toWeb(createReadStream(path)) as ReadableStream<Uint8Array>;
  const encrypted = await encrypter.encrypt(plain);
  await pipeline(
    Readable.fromWeb(encrypted as Parameters<typeof Readable.fromWeb>[0]),
    createWriteStream(`${path}.age`),
  );
  await rm(path);
}
