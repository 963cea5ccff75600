import { randomUUID } from 'node:crypto';
import * as z from 'zod';

/** A call of a tool that a model wrote. */
export interface ToolCall {
  id: string;
  name: string;
  /** JSON. */
  arguments: string;
}

/** What became certain of an answer. */
export interface Said {
  text: string;
  calls: ToolCall[];
}

const OPEN = '<tool_call>';
const CLOSE = '</tool_call>';
const Call = z.object({ name: z.string().min(1), arguments: z.record(z.string(), z.unknown()).default({}) });

/**
 * Tells calls from text in an answer of the form in which Hermes, Qwen 2.5 and Qwen3 write calls:
 * `<tool_call>{"name": …, "arguments": {…}}</tool_call>`. What is not of it stays text. Text that may turn out to begin a
 * call, and the blanks before it, are held back.
 */
export class ToolCallReader {
  #held = '';
  #count = 0;

  /** Calls so far. */
  get count(): number {
    return this.#count;
  }

  push(text: string): Said {
    this.#held += text;
    const said: Said = { text: '', calls: [] };
    for (;;) {
      const start = this.#held.indexOf(OPEN);
      const end = this.#held.indexOf(CLOSE, start);
      if (start < 0 || end < 0) break;
      const call = parse(this.#held.slice(start + OPEN.length, end));
      const before = this.#held.slice(0, start);
      if (call) said.calls.push(call);
      said.text += call ? before.trimEnd() : this.#held.slice(0, end + CLOSE.length);
      this.#held = this.#held.slice(end + CLOSE.length);
    }
    this.#count += said.calls.length;
    const certain = certainLength(this.#held);
    said.text += this.#held.slice(0, certain);
    this.#held = this.#held.slice(certain);
    return said;
  }

  /** What was held back, when no more comes. */
  finish(): Said {
    const text = this.#held;
    this.#held = '';
    return { text: this.#count > 0 ? text.trimEnd() : text, calls: [] };
  }
}

function parse(text: string): ToolCall | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return undefined;
  }
  const parsed = Call.safeParse(json);
  if (!parsed.success) return undefined;
  const { name, arguments: given } = parsed.data;
  return {
    id: `call_${randomUUID().replaceAll('-', '').slice(0, 24)}`,
    name,
    arguments: JSON.stringify(given),
  };
}

/** How much of a text is no beginning of a call, nor blanks before one. */
function certainLength(text: string): number {
  const whole = text.indexOf(OPEN);
  if (whole >= 0) return text.slice(0, whole).trimEnd().length;
  for (let length = Math.min(OPEN.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(OPEN.slice(0, length))) return text.slice(0, text.length - length).trimEnd().length;
  }
  return text.trimEnd().length;
}
