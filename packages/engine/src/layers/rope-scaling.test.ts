import { expect, test } from 'vitest';
import { type RopeParameters, ropeConfig } from '../models/config.ts';
import { fixturePath, readJson } from '../testing/fixtures.ts';
import { ropeAmplitude, ropeFrequencies } from './rope-scaling.ts';

interface Case {
  dim: number;
  parameters: RopeParameters;
  frequencies: number[];
  amplitude: number;
}

// By transformers, in float32: see make_rope_fixture.py.
test.each(readJson<Case[]>(fixturePath('ropes.json')))('$parameters', ({ dim, parameters, ...want }) => {
  const rope = ropeConfig(parameters, undefined, dim);
  expect(ropeAmplitude(rope.scaling)).toBeCloseTo(want.amplitude, 10);
  ropeFrequencies(rope).forEach((frequency, i) => {
    expect(Math.abs(frequency / want.frequencies[i]! - 1)).toBeLessThan(1e-6);
  });
});
