// biome-ignore-all lint/a11y/noNoninteractiveTabindex: arrow keys go from token to token
// biome-ignore-all lint/a11y/useSemanticElements: a text is no fieldset
// biome-ignore-all lint/suspicious/noArrayIndexKey: tokens only come after one another
import { type KeyboardEvent, type MouseEvent, useState } from 'react';

interface Token {
  text: string;
  logprob: number;
}

/** Upper bounds of probability of the four tints, from the strongest. */
const TINTS = [0.02, 0.1, 0.35, 0.75];

function tintOf(logprob: number): number {
  const at = TINTS.findIndex((bound) => Math.exp(logprob) < bound);
  return at < 0 ? 0 : TINTS.length - at;
}

/** Text whose tokens are tinted by how unlikely they were. The token under the pointer, or at the arrow keys, is described. */
export function Tokens({ tokens, tinted, label }: { tokens: Token[]; tinted: boolean; label: string }) {
  const [active, setActive] = useState<number | null>(null);
  if (!tinted) return <div className="tokens">{tokens.map(({ text }) => text).join('')}</div>;
  const point = (event: MouseEvent): void => {
    const at = (event.target as HTMLElement).dataset.at;
    if (at !== undefined) setActive(Number(at));
  };
  const move = (event: KeyboardEvent): void => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    setActive(Math.min(Math.max((active ?? -step) + step, 0), tokens.length - 1));
  };
  const chosen = active === null ? undefined : tokens[active];
  return (
    <>
      <div
        className="tokens"
        role="group"
        aria-label={`${label}. Arrow keys go from token to token.`}
        tabIndex={0}
        onMouseOver={point}
        onFocus={() => setActive(active ?? 0)}
        onKeyDown={move}
      >
        {tokens.map((token, at) => (
          <span
            key={at}
            data-at={at}
            className={`token tint-${tintOf(token.logprob)}${at === active ? ' token-active' : ''}`}
          >
            {token.text}
          </span>
        ))}
      </div>
      <output className="token-readout">
        {chosen && (
          <>
            <code>{visible(chosen.text)}</code>
            <span>p {percent(chosen.logprob)}</span>
            <span>logprob {chosen.logprob.toFixed(3)}</span>
          </>
        )}
      </output>
    </>
  );
}

/** What the tints mean. */
export function TintScale() {
  const marks = ['≥ 75 %', '< 75 %', '< 35 %', '< 10 %', '< 2 %'];
  return (
    <span className="tint-scale" title="Point at a token to see its probability">
      {marks.map((mark, at) => (
        <span key={mark} className={`token tint-${at}`}>
          {mark}
        </span>
      ))}
    </span>
  );
}

function visible(text: string): string {
  return text === ''
    ? '(part of a character)'
    : text.replaceAll('\n', '↵').replaceAll('\t', '⇥').replaceAll(' ', '␣');
}

function percent(logprob: number): string {
  const value = Math.exp(logprob) * 100;
  return `${value >= 10 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : '< 0.1'} %`;
}
