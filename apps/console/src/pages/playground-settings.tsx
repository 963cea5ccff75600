import { type ReactNode, useId } from 'react';

export interface PlaygroundOptions {
  /** `text` goes on from a text as it is, without a chat template. */
  mode: 'chat' | 'text';
  system: string;
  temperature: number;
  topP: number;
  maxTokens: number;
  /** One per line; `\n` stands for a line break. */
  stop: string;
  seed: string;
  tinted: boolean;
}

export const startOptions: PlaygroundOptions = {
  mode: 'chat',
  system: '',
  temperature: 0.7,
  topP: 1,
  maxTokens: 256,
  stop: '',
  seed: '',
  tinted: true,
};

interface SettingsProps {
  options: PlaygroundOptions;
  onChange: (options: PlaygroundOptions) => void;
  scale: ReactNode;
}

/** How answers are sampled. */
export function PlaygroundSettings({ options, onChange, scale }: SettingsProps) {
  const set = (change: Partial<PlaygroundOptions>): void => onChange({ ...options, ...change });
  return (
    <aside className="settings" aria-label="Sampling settings">
      <fieldset className="segments" aria-label="Kind of prompt">
        <button type="button" aria-pressed={options.mode === 'chat'} onClick={() => set({ mode: 'chat' })}>
          Chat
        </button>
        <button type="button" aria-pressed={options.mode === 'text'} onClick={() => set({ mode: 'text' })}>
          Complete a text
        </button>
      </fieldset>
      <label className="inline">
        <input
          type="checkbox"
          checked={options.tinted}
          onChange={(event) => set({ tinted: event.target.checked })}
        />
        Tint tokens by probability
      </label>
      {scale}
      {options.mode === 'chat' && (
        <label>
          System prompt
          <textarea
            rows={3}
            value={options.system}
            onChange={(event) => set({ system: event.target.value })}
          />
        </label>
      )}
      <Slider
        name="Temperature"
        value={options.temperature}
        max={2}
        step={0.05}
        onChange={(temperature) => set({ temperature })}
      />
      <Slider
        name="Top-p"
        value={options.topP}
        min={0.05}
        max={1}
        step={0.05}
        onChange={(topP) => set({ topP })}
      />
      <label>
        Most tokens
        <input
          type="number"
          min={1}
          max={100_000}
          value={options.maxTokens}
          onChange={(event) => set({ maxTokens: Math.max(1, Math.round(Number(event.target.value))) })}
        />
      </label>
      <label>
        Stop at, one per line
        <textarea
          rows={2}
          value={options.stop}
          placeholder="\n\n"
          onChange={(event) => set({ stop: event.target.value })}
        />
      </label>
      <label>
        Seed
        <input
          type="text"
          inputMode="numeric"
          pattern="[0-9]*"
          placeholder="a new one each time"
          value={options.seed}
          onChange={(event) => set({ seed: event.target.value.replace(/\D/g, '').slice(0, 15) })}
        />
      </label>
    </aside>
  );
}

interface SliderProps {
  name: string;
  value: number;
  min?: number;
  max: number;
  step: number;
  onChange: (value: number) => void;
}

function Slider({ name, value, min = 0, max, step, onChange }: SliderProps) {
  const id = useId();
  return (
    <div className="slider">
      <label htmlFor={id}>{name}</label>
      <output htmlFor={id}>{value.toFixed(2)}</output>
      <input
        id={id}
        type="range"
        min={min}
        max={max}
        step={step}
        value={value}
        onChange={(event) => onChange(Number(event.target.value))}
      />
    </div>
  );
}
