import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  CHECKPOINT_KINDS,
  type CheckpointType,
  checkpointName,
  formatCheckpointPath,
  formatModelId,
  formatSamplerId,
  ParsedCheckpointTinkerPath,
  parseSessionPart,
} from './index.ts';

const segment = fc.string({ minLength: 1 }).filter((text) => !text.includes('/'));
const type = fc.constantFrom(...(Object.keys(CHECKPOINT_KINDS) as CheckpointType[]));

test('a formatted path parses to its parts, under both schemes', () => {
  fc.assert(
    fc.property(segment, type, segment, (run, checkpoint_type, name) => {
      const path = formatCheckpointPath(run, checkpoint_type, name);
      const parsed = ParsedCheckpointTinkerPath.fromTinkerPath(path);
      expect(parsed).toMatchObject({ tinker_path: path, training_run_id: run, checkpoint_type });
      expect(checkpointName(parsed.checkpoint_id)).toBe(name);
      const logits = ParsedCheckpointTinkerPath.fromTinkerPath(path.replace('tinker', 'logits'));
      expect(logits).toEqual({ ...parsed, tinker_path: path.replace('tinker', 'logits') });
    }),
  );
});

test('a run id holds colons', () => {
  const path = 'tinker://9a3f:train:0/sampler_weights/step-100';
  expect(ParsedCheckpointTinkerPath.fromTinkerPath(path)).toEqual({
    tinker_path: path,
    training_run_id: '9a3f:train:0',
    checkpoint_type: 'sampler',
    checkpoint_id: 'sampler_weights/step-100',
  });
});

test.each([
  'http://run/weights/a',
  'tinker:/run/weights/a',
  'tinker://run/weights',
  'tinker://run/weights/a/b',
  'tinker:///weights/a',
  'tinker://run/weights/',
  'tinker://run/adapters/a',
])('%s is refused with the form that is expected', (path) => {
  expect(() => ParsedCheckpointTinkerPath.fromTinkerPath(path)).toThrow(
    /expected tinker:\/\/\{training_run_id\}/,
  );
});

test('a name with a slash makes no path', () => {
  expect(() => formatCheckpointPath('run', 'training', 'a/b')).toThrow(TypeError);
});

test('ids of session parts parse to what they were made of', () => {
  fc.assert(
    fc.property(fc.string({ minLength: 1 }), fc.nat(), (sessionId, seqId) => {
      expect(parseSessionPart(formatModelId(sessionId, seqId))).toEqual({ sessionId, kind: 'train', seqId });
      expect(parseSessionPart(formatSamplerId(sessionId, seqId))).toEqual({
        sessionId,
        kind: 'sample',
        seqId,
      });
    }),
  );
});

test.each([
  '',
  's:train:',
  's:train:01',
  's:train:-1',
  ':train:0',
  's:tune:0',
  's:train:99999999999999999999',
])('%s is no id of a session part', (id) => {
  expect(parseSessionPart(id)).toBeUndefined();
});
