import { useCallback, useRef, useState } from 'react';
import {
  type ChatMessage,
  type Piece,
  type ScoredToken,
  streamChat,
  streamText,
} from '../api/completions.ts';
import type { PlaygroundOptions } from '../pages/playground-settings.tsx';

export interface Answer {
  model: string;
  state: 'running' | 'done' | 'failed';
  text: string;
  tokens: ScoredToken[];
  finish: string | null;
  seconds: number;
  problem: string;
}

/** What was asked, and the answer of each column. */
export interface Turn {
  id: number;
  text: string;
  answers: Answer[];
}

/** A conversation that several models hold, each with its own answers as its past. */
export function useConversation() {
  const [turns, setTurns] = useState<Turn[]>([]);
  const [running, setRunning] = useState(0);
  const abort = useRef<AbortController>(null);

  const send = useCallback(
    async (text: string, models: string[], options: PlaygroundOptions): Promise<void> => {
      const stop = new AbortController();
      abort.current = stop;
      const id = Date.now();
      const turn: Turn = { id, text, answers: models.map(newAnswer) };
      setTurns((before) => [...before, turn]);
      setRunning(models.length);
      const change = (column: number, to: (answer: Answer) => Answer): void =>
        setTurns((before) =>
          before.map((other) =>
            other.id === id
              ? {
                  ...other,
                  answers: other.answers.map((answer, at) => (at === column ? to(answer) : answer)),
                }
              : other,
          ),
        );
      const one = async (model: string, column: number): Promise<void> => {
        const began = Date.now();
        try {
          for await (const piece of open(model, column, text, turns, options, stop.signal)) {
            change(column, (answer) => extend(answer, piece, (Date.now() - began) / 1000));
          }
          change(column, (answer) => ({ ...answer, state: 'done' }));
        } catch (error) {
          const problem = (error as Error).message;
          change(column, (answer) =>
            stop.signal.aborted
              ? { ...answer, state: 'done', finish: 'stopped' }
              : { ...answer, state: 'failed', problem },
          );
        } finally {
          setRunning((count) => count - 1);
        }
      };
      await Promise.all(models.map(one));
    },
    [turns],
  );
  const stop = useCallback(() => abort.current?.abort(), []);
  const clear = useCallback(() => {
    abort.current?.abort();
    setTurns([]);
  }, []);
  return { turns, isBusy: running > 0, send, stop, clear };
}

function newAnswer(model: string): Answer {
  return { model, state: 'running', text: '', tokens: [], finish: null, seconds: 0, problem: '' };
}

function extend(answer: Answer, piece: Piece, seconds: number): Answer {
  return {
    ...answer,
    text: answer.text + piece.text,
    tokens: [...answer.tokens, ...piece.tokens],
    finish: piece.finish ?? answer.finish,
    seconds,
  };
}

function open(
  model: string,
  column: number,
  text: string,
  past: Turn[],
  options: PlaygroundOptions,
  signal: AbortSignal,
): AsyncGenerator<Piece> {
  const { temperature, topP, maxTokens, seed } = options;
  const stop = options.stop
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.replaceAll('\\n', '\n'));
  const sampling = { temperature, topP, maxTokens, stop, seed: seed === '' ? null : Number(seed) };
  if (options.mode === 'text') return streamText(model, text, sampling, signal);
  const system: ChatMessage[] = options.system.trim() ? [{ role: 'system', content: options.system }] : [];
  const before = past.flatMap((turn): ChatMessage[] => {
    const answer = turn.answers[column];
    if (answer?.model !== model || answer.text === '') return [];
    return [
      { role: 'user', content: turn.text },
      { role: 'assistant', content: answer.text },
    ];
  });
  return streamChat(model, [...system, ...before, { role: 'user', content: text }], sampling, signal);
}
