/** The guide's table names every public method of the Python SDK, and what it names here exists. */
import { readFileSync } from 'node:fs';
import * as types from '@anneal/types';
import { expect, test } from 'vitest';
import * as client from '../src/index.ts';

const read = (path: string) => readFileSync(new URL(path, import.meta.url), 'utf8');

/** `Owner.member` for each name in a cell; `.member` belongs to the owner before it. */
function namesIn(cell: string): string[] {
  let owner = '';
  return [...cell.matchAll(/`(\w*)(\.\w+)?/g)].flatMap(([, first = '', member = '']) => {
    if (first) owner = first;
    return member ? [owner + member] : [];
  });
}

const python: Record<string, string[]> = JSON.parse(read('../fixtures/python_sdk.json'));
const rows = read('../../../docs/client.md')
  .split('\n')
  .filter((line) => line.startsWith('| `') || line.startsWith('| none'))
  .map((line) => line.split('|').map((cell) => cell.trim()))
  .map(([, theirs = '', ours = '']) => ({ theirs: namesIn(theirs), ours: namesIn(ours), text: ours }));

const CLIENTS = [
  'ServiceClient',
  'TrainingClient',
  'SamplingClient',
  'RestClient',
  'AdminClient',
  'APIFuture',
  'ModelInput',
  'Datum',
  'TensorData',
  'ParsedCheckpointTinkerPath',
];

const methods = CLIENTS.flatMap((name) =>
  (python[name] ?? []).filter((method) => !method.endsWith('_async')).map((method) => `${name}.${method}`),
);

test.each(methods)('%s has a row', (method) => {
  const row = rows.find(({ theirs }) => theirs.includes(method));
  expect(row?.text).toBeTruthy();
});

const named = [...new Set(rows.flatMap(({ ours }) => ours))].filter((name) => /^[A-Z]/.test(name));

test.each(named)('%s exists', (name) => {
  const [owner = '', member = ''] = name.split('.');
  const exported = new Map<string, unknown>(Object.entries(client));
  const owners = exported.get(owner) as { prototype?: object };
  expect(member in (owners.prototype ?? {}) || member in owners).toBe(true);
});

test('every error class of the Python SDK exists, in the same tree', () => {
  const exported = new Map<string, unknown>(Object.entries(client));
  for (const name of python.errors ?? []) expect(exported.has(name), name).toBe(true);
  expect(new client.RequestFailedError('', '', 'user')).toBeInstanceOf(client.TinkerError);
  const answer = { status: 418, headers: new Headers(), body: '' };
  expect(client.APIStatusError.from('x', { ...answer, status: 404 })).toBeInstanceOf(client.NotFoundError);
  expect(client.APIStatusError.from('x', { ...answer, status: 503 })).toBeInstanceOf(
    client.InternalServerError,
  );
  expect(client.APIStatusError.from('x', answer).constructor).toBe(client.APIStatusError);
  expect(new client.APITimeoutError('')).toBeInstanceOf(client.APIConnectionError);
});

/** Types of the Python SDK that have another name or form here, and why. */
const ELSEWHERE: Record<string, string> = {
  ModelID: 'ModelId',
  RequestID: 'RequestId',
  UntypedAPIFuture: 'UntypedApiFuture',
  AccessibleSearchOwner: 'SearchOwner',
  OwnSearchOwner: 'SearchOwner',
  UserSearchOwner: 'SearchOwner',
  ActiveSessionStatusQuery: 'SessionStatusQuery',
  CancelledSessionStatusQuery: 'SessionStatusQuery',
  FailedSessionStatusQuery: 'SessionStatusQuery',
  ClientFinishedSessionStatusQuery: 'SessionStatusQuery',
  SessionActive: 'SessionStatus',
  SessionCancelled: 'SessionStatus',
  SessionFailed: 'SessionStatus',
  SessionFailedRequestReason: 'SessionStatus',
  SessionFailedSamplingSessionReason: 'SessionStatus',
  SessionFailedTrainingRunReason: 'SessionStatus',
  ClientSessionFinished: 'SessionStatus',
  ClientSessionFinishErrored: 'SessionFinishReasonType',
  ClientSessionFinishInterrupted: 'SessionFinishReasonType',
  ClientSessionFinishSuccess: 'SessionFinishReasonType',
  BillingUsageSession: 'BillingUsageResponse',
  CheckpointBillingEvent: 'BillingEventInfo',
  SamplingPrefillBillingEvent: 'BillingEventInfo',
  SamplingSampleBillingEvent: 'BillingEventInfo',
  StorageBillingEvent: 'BillingEventInfo',
  TrainingBillingEvent: 'BillingEventInfo',
  GetBillingUsageRequest: 'BillingUsageResponse',
  GetCurrentCheckpointStorageUsageRequest: 'CurrentCheckpointStorageUsageResponse',
};

test.each(python.types ?? [])('type %s is exported by @anneal/types', (name) => {
  expect(types).toHaveProperty(ELSEWHERE[name] ?? name);
});
