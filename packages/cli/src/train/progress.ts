/** Tells how far training is: a line that is written over on a terminal, lines elsewhere, JSON where that is asked for. */
import type { Step } from './train.ts';

export interface Progress {
  onStep(step: Step): void;
  /** A state was saved after so many steps. */
  onSaved(step: number, state: string): void;
  /** To be called when nothing more will come. */
  stop(): void;
}

export function trainingProgress(
  json: boolean | undefined,
  stream: NodeJS.WriteStream = process.stderr,
): Progress {
  if (json) {
    const onStep = ({ learningRate, ...step }: Step) =>
      process.stdout.write(`${JSON.stringify({ ...step, learning_rate: learningRate })}\n`);
    const onSaved = (step: number, state: string) =>
      process.stdout.write(`${JSON.stringify({ step, state })}\n`);
    return { onStep, onSaved, stop: () => {} };
  }
  const begun = performance.now();
  let told = 0;
  return {
    onStep(step) {
      told++;
      const perStep = (performance.now() - begun) / told;
      const line = describe(step, (perStep * (step.steps - step.step)) / 1000);
      stream.write(stream.isTTY ? `\r\x1b[2K${line}` : `${line}\n`);
    },
    onSaved(step, state) {
      stream.write(`${stream.isTTY ? '\n' : ''}saved after step ${step}: ${state}\n`);
    },
    stop() {
      if (stream.isTTY && told > 0) stream.write('\n');
    },
  };
}

function describe({ step, steps, loss, accuracy }: Step, secondsLeft: number): string {
  const shown = accuracy === undefined ? '' : `  accuracy ${accuracy.toFixed(2)}`;
  const end = step === steps ? '' : `  ${duration(secondsLeft)} left`;
  return `step ${step}/${steps}  loss ${loss.toFixed(4)}${shown}${end}`;
}

export function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.ceil(whole / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
