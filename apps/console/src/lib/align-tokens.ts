interface Token {
  text: string;
  logprob: number;
}

/**
 * Tokens with the parts of the text that they stand for. Their own texts differ from it where a character takes several
 * tokens, and where a stop text cut the last one short. Joined, the parts are the text.
 */
export function alignTokens(tokens: readonly Token[], text: string): Token[] {
  const parts: Token[] = [];
  let at = 0;
  for (let index = 0; index < tokens.length; index += 1) {
    const { text: own, logprob } = tokens[index]!;
    let end = at + own.length;
    if (own.includes('\uFFFD') || !text.startsWith(own, at)) {
      end = nextMatch(tokens, index + 1, text, at);
    }
    parts.push({ text: text.slice(at, end), logprob });
    at = Math.min(end, text.length);
  }
  return parts;
}

/** Where the next token with a text of its own begins; the end, if none does. */
function nextMatch(tokens: readonly Token[], from: number, text: string, at: number): number {
  const next = tokens.slice(from).find(({ text: own }) => own !== '' && !own.includes('\uFFFD'));
  const found = next ? text.indexOf(next.text, at) : -1;
  return found < 0 ? text.length : found;
}
