// Chat templates, rendered as transformers renders them: Jinja with trimmed blocks and a few globals.
import { Environment, Interpreter, parse, tokenize } from '@huggingface/jinja';
import { ChatTemplateError } from './errors.ts';
import { PYTHON_FUNCTIONS, withPythonSemantics } from './python-semantics.ts';
import { strftime } from './strftime.ts';

// The library's own declarations do not resolve under NodeNext (relative imports without extension).
type Program = object;
interface RenderingEnvironment {
  set(name: string, value: unknown): unknown;
}
interface RenderingInterpreter {
  run(program: Program): { value: unknown };
}

/** One turn. Content may be parts (`{ type: 'text', text }`, images) where the template knows them; more fields pass through. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: string | readonly Readonly<Record<string, unknown>>[] | null;
  readonly [field: string]: unknown;
}

export interface ChatTemplateOptions {
  /** End with the header of an assistant turn, for the model to go on from. Default false, as in transformers. */
  readonly addGenerationPrompt?: boolean;
  /** JSON schemas of functions the model may call. */
  readonly tools?: readonly Readonly<Record<string, unknown>>[];
  /** Documents for templates that quote from them. */
  readonly documents?: readonly Readonly<Record<string, unknown>>[];
  /** Further variables of the template, such as `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>>;
  /** Which of a model's named templates to use. Default: `tool_use` when there are tools and such a template, else `default`. */
  readonly template?: string;
  /** What `strftime_now` shows. Default: the current time. */
  readonly now?: Date;
}

/** Named chat templates of a model. */
export class ChatTemplates {
  readonly #sources: ReadonlyMap<string, string>;
  readonly #parsed = new Map<string, Program>();

  constructor(sources: ReadonlyMap<string, string>) {
    this.#sources = sources;
  }

  /** Names of the templates; one alone is called `default`. */
  get names(): string[] {
    return [...this.#sources.keys()];
  }

  /**
   * The prompt text of a conversation.
   *
   * @param tokens named special tokens that the template may print (`bos_token`, ...)
   * @throws ChatTemplateError when there is no template, or it fails or refuses
   */
  render(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions,
    tokens: Readonly<Record<string, string>>,
  ): string {
    const name =
      options.template ?? (options.tools && this.#sources.has('tool_use') ? 'tool_use' : 'default');
    const program = this.#program(name);
    const environment: RenderingEnvironment = new Environment();
    const variables = {
      ...globals(options.now ?? new Date()),
      ...tokens,
      ...options.variables,
      messages: messages.map(withReasoningAliases),
      tools: options.tools ?? null,
      documents: options.documents ?? null,
      add_generation_prompt: options.addGenerationPrompt ?? false,
    };
    try {
      for (const [key, value] of Object.entries(variables)) environment.set(key, value);
      const interpreter: RenderingInterpreter = new Interpreter(environment);
      return String(interpreter.run(program).value);
    } catch (error) {
      throw failure(`chat template "${name}"`, error);
    }
  }

  #program(name: string): Program {
    const known = this.#parsed.get(name);
    if (known) return known;
    const source = this.#sources.get(name);
    if (source === undefined) {
      const names = this.names.join(', ');
      throw new ChatTemplateError(
        names
          ? `no chat template "${name}" (there are: ${names}); name one with the option "template"`
          : 'this tokenizer has no chat template; write the prompt text yourself, or use the instruct variant of the model',
      );
    }
    try {
      const tokens = tokenize(source, { lstrip_blocks: true, trim_blocks: true });
      const program = withPythonSemantics(parse(tokens));
      this.#parsed.set(name, program);
      return program;
    } catch (error) {
      throw failure(`chat template "${name}" does not parse`, error);
    }
  }
}

function failure(what: string, error: unknown): ChatTemplateError {
  if (error instanceof ChatTemplateError) return error;
  return new ChatTemplateError(`${what}: ${error instanceof Error ? error.message : error}`, {
    cause: error,
  });
}

function globals(now: Date): Record<string, unknown> {
  return {
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
    ...PYTHON_FUNCTIONS,
    range,
    strftime_now: (format: string) => strftime(now, format),
    raise_exception: (message: string) => {
      throw new ChatTemplateError(`the chat template refuses these messages: ${message}`);
    },
  };
}

/** Python's range(stop), range(start, stop) and range(start, stop, step). */
function range(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  const count = Math.max(0, Math.ceil((stop - start) / step));
  return Array.from({ length: count }, (_, i) => start + i * step);
}

/** A message's reasoning goes by three names; transformers fills the two that templates read from whichever is there. */
function withReasoningAliases(message: ChatMessage): ChatMessage {
  const reasoning = message.reasoning_content ?? message.thinking ?? message.reasoning;
  if (reasoning === undefined || reasoning === null) return message;
  return { thinking: reasoning, ...message, reasoning_content: reasoning };
}
