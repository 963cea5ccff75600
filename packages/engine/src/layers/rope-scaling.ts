/** How rotary wavelengths are stretched beyond the context that a model was trained on first. */

export interface Llama3Scaling {
  type: 'llama3';
  factor: number;
  lowFreqFactor: number;
  highFreqFactor: number;
  originalMaxPosition: number;
}

export interface YarnScaling {
  type: 'yarn';
  factor: number;
  originalMaxPosition: number;
  /** Turns within the first context from which on a dimension keeps its frequency, and below which it is stretched. */
  betaFast: number;
  betaSlow: number;
  /** Whether the ramp between begins and ends at whole dimensions. */
  truncate: boolean;
  attentionFactor: number;
}

export type RopeScaling =
  | { type: 'default' }
  | { type: 'linear'; factor: number }
  | Llama3Scaling
  | YarnScaling;

interface RopeBase {
  theta: number;
  dim: number;
  scaling: RopeScaling;
}

/** Angular frequencies [dim / 2], in float64 so that long positions stay exact. */
export function ropeFrequencies({ theta, dim, scaling }: RopeBase): Float64Array {
  const scale = scaling.type === 'yarn' ? yarn(scaling, theta, dim) : byWavelength(scaling);
  return Float64Array.from({ length: dim / 2 }, (_, i) => scale(theta ** ((-2 * i) / dim), i));
}

/** What cosines and sines are multiplied by. */
export function ropeAmplitude(scaling: RopeScaling): number {
  return scaling.type === 'yarn' ? scaling.attentionFactor : 1;
}

/** A frequency and its index → the scaled frequency. */
type Scale = (frequency: number, index: number) => number;

function byWavelength(scaling: Exclude<RopeScaling, YarnScaling>): Scale {
  if (scaling.type === 'default') return (frequency) => frequency;
  if (scaling.type === 'linear') return (frequency) => frequency / scaling.factor;
  return (frequency) => llama3(scaling, frequency);
}

function llama3(scaling: Llama3Scaling, frequency: number): number {
  // Llama 3.1: long wavelengths are stretched, short ones kept, those between blended.
  const wavelength = (2 * Math.PI) / frequency;
  const low = scaling.originalMaxPosition / scaling.lowFreqFactor;
  const high = scaling.originalMaxPosition / scaling.highFreqFactor;
  if (wavelength < high) return frequency;
  if (wavelength > low) return frequency / scaling.factor;
  const smooth =
    (scaling.originalMaxPosition / wavelength - scaling.lowFreqFactor) /
    (scaling.highFreqFactor - scaling.lowFreqFactor);
  return (1 - smooth) * (frequency / scaling.factor) + smooth * frequency;
}

/**
 * YaRN (Peng et al. 2023, arXiv:2309.00071): dimensions that turn often within the first context keep their frequency,
 * those that turn seldom are stretched by the factor, with a ramp between.
 */
function yarn(
  { factor, originalMaxPosition, betaFast, betaSlow, truncate }: YarnScaling,
  theta: number,
  dim: number,
): Scale {
  const dimensionOf = (turns: number) =>
    (dim * Math.log(originalMaxPosition / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const [first, last] = [dimensionOf(betaFast), dimensionOf(betaSlow)];
  const low = Math.max(truncate ? Math.floor(first) : first, 0);
  const high = Math.min(truncate ? Math.ceil(last) : last, dim - 1);
  const width = high === low ? 0.001 : high - low;
  return (frequency, i) => {
    const stretched = Math.min(Math.max((i - low) / width, 0), 1);
    return (frequency / factor) * stretched + frequency * (1 - stretched);
  };
}

/** YaRN's growth of scores with the logarithm of the stretch; 1 where nothing is stretched. */
export function yarnMagnitude(factor: number, weight = 1): number {
  return factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1;
}
