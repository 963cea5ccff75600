// Tokens to text as Rust's tokenizers decodes them, piece by piece. Two kinds of decoder cover today's language models:
// byte-level BPE (each character of a token stands for one byte) and SentencePiece-like BPE with byte fallback ("<0x0A>").
import { z } from 'zod';
import { TokenizerError } from './errors.ts';
import { incompleteSuffixLength } from './utf8.ts';

/** Text of a growing list of tokens. */
export interface TextStream {
  /** Adds a token (its vocabulary string) and returns the text that can no longer change. */
  push(token: string): string;
  /** The text shown after that for bytes whose character is still incomplete or may yet change: mostly empty. */
  readonly pending: string;
}

const REPLACEMENT = '\uFFFD';

const byteLevelSchema = z.looseObject({ type: z.literal('ByteLevel') });
const sequenceSchema = z.object({
  type: z.literal('Sequence'),
  decoders: z.union([
    z.tuple([replaceSchema(), fallbackSchema(), fuseSchema()]),
    z.tuple([replaceSchema(), fallbackSchema(), fuseSchema(), stripSchema()]),
  ]),
});
const onlyByteLevelSchema = z.object({ type: z.literal('Sequence'), decoders: z.tuple([byteLevelSchema]) });

function replaceSchema() {
  return z.looseObject({
    type: z.literal('Replace'),
    pattern: z.object({ String: z.string() }),
    content: z.string(),
  });
}

function fallbackSchema() {
  return z.looseObject({ type: z.literal('ByteFallback') });
}

function fuseSchema() {
  return z.looseObject({ type: z.literal('Fuse') });
}

function stripSchema() {
  return z.looseObject({
    type: z.literal('Strip'),
    content: z.string().length(1),
    start: z.number().int().nonnegative(),
    stop: z.literal(0),
  });
}

/**
 * How the `decoder` of a tokenizer.json turns tokens into text.
 *
 * @returns a function that begins a new text
 * @throws TokenizerError for decoders other than ByteLevel and the byte-fallback sequence
 */
export function textStreamsOf(decoder: unknown): () => TextStream {
  if (byteLevelSchema.safeParse(decoder).success || onlyByteLevelSchema.safeParse(decoder).success) {
    return () => new ByteLevelStream();
  }
  const sequence = sequenceSchema.safeParse(decoder);
  if (sequence.success) {
    const [replace, , , strip] = sequence.data.decoders;
    return () => new ByteFallbackStream(replace.pattern.String, replace.content, strip);
  }
  const kind = JSON.stringify(decoder)?.slice(0, 200);
  throw new TokenizerError(
    `tokenizer.json: decoder ${kind} is not supported (ByteLevel is, and a Sequence of Replace, ByteFallback, Fuse and optionally Strip)`,
  );
}

class ByteLevelStream implements TextStream {
  readonly #utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
  #held = new Uint8Array(0);

  push(token: string): string {
    const added = byteLevelBytes(token);
    const bytes = new Uint8Array(this.#held.length + added.length);
    bytes.set(this.#held);
    bytes.set(added, this.#held.length);
    const end = bytes.length - incompleteSuffixLength(bytes);
    this.#held = bytes.slice(end);
    return this.#utf8.decode(bytes.subarray(0, end));
  }

  get pending(): string {
    return this.#held.length > 0 ? REPLACEMENT : '';
  }
}

class ByteFallbackStream implements TextStream {
  readonly #utf8 = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true });
  readonly #pattern: string;
  readonly #content: string;
  readonly #stripped: string;
  #toStrip: number;
  #run: number[] = [];

  constructor(pattern: string, content: string, strip?: { content: string; start: number }) {
    this.#pattern = pattern;
    this.#content = content;
    this.#stripped = strip?.content ?? '';
    this.#toStrip = strip?.start ?? 0;
  }

  push(token: string): string {
    const byte = fallbackByte(token);
    if (byte !== undefined) {
      this.#run.push(byte);
      return '';
    }
    const text = this.#runText() + token.replaceAll(this.#pattern, this.#content);
    this.#run = [];
    const kept = this.#strip(text);
    if (kept.length > 0) this.#toStrip = 0;
    else this.#toStrip -= text.length;
    return kept;
  }

  get pending(): string {
    return this.#strip(this.#runText());
  }

  /** A run of byte tokens is valid as a whole, or every byte of it shows as a replacement character. */
  #runText(): string {
    try {
      return this.#utf8.decode(Uint8Array.from(this.#run));
    } catch {
      return REPLACEMENT.repeat(this.#run.length);
    }
  }

  #strip(text: string): string {
    let start = 0;
    while (start < this.#toStrip && text[start] === this.#stripped) start++;
    return text.slice(start);
  }
}

function fallbackByte(token: string): number | undefined {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? Number.parseInt(token.slice(3, 5), 16) : undefined;
}

/** GPT-2's table: printable Latin-1 stands for itself, the other 68 bytes for U+0100 onwards. */
const BYTE_OF_CHARACTER = new Map<string, number>();
for (let byte = 0, next = 0x100; byte < 256; byte++) {
  const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  BYTE_OF_CHARACTER.set(String.fromCharCode(printable ? byte : next++), byte);
}

/** A token with a character outside the table (an added token) stands for its own UTF-8 text. */
function byteLevelBytes(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = BYTE_OF_CHARACTER.get(token[i]!);
    if (byte === undefined) return new TextEncoder().encode(token);
    bytes[i] = byte;
  }
  return bytes;
}
