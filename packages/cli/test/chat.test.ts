import { PassThrough } from 'node:stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { SpawnedServer } from '../src/bench/spawn-server.ts';
import { converse } from '../src/chat/conversation.ts';
import { anneal, MODEL, startServer } from './anneal.ts';

let server: SpawnedServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server.stop());

interface Completion {
  choices: { message: { content: string }; finish_reason: string }[];
  usage: Record<'prompt_tokens' | 'completion_tokens' | 'total_tokens', number>;
}

/** What the server answers without streaming, asked directly. */
async function completion(messages: object[], maxTokens: number): Promise<Completion> {
  const response = await fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: MODEL, messages, temperature: 0, max_tokens: maxTokens }),
  });
  return (await response.json()) as Completion;
}

test('what is piped in is answered, as the endpoint answers it', async () => {
  const { choices, usage } = await completion(
    [
      { role: 'system', content: 'Be kind.' },
      { role: 'user', content: 'Hello' },
    ],
    6,
  );
  const [{ message, finish_reason }] = choices as [Completion['choices'][number]];
  const flags = ['chat', '--system', 'Be kind.', '--temperature', '0', '--max-tokens', '6'];
  const plain = await anneal(flags, { server, input: 'Hello\n' });
  expect(plain).toEqual({ status: 0, stdout: `${message.content}\n`, stderr: '' });
  const json = await anneal([...flags, '--model', MODEL, '--json'], { server, input: 'Hello\n' });
  const { prompt_tokens, completion_tokens, total_tokens } = usage;
  expect(JSON.parse(json.stdout)).toEqual({
    model: MODEL,
    content: message.content,
    finish_reason,
    usage: { prompt_tokens, completion_tokens, total_tokens },
  });
}, 120_000);

test('what cannot be done is one line and an exit status', async () => {
  const unknown = await anneal(['chat', '--model', 'nobody'], { server, input: 'Hello' });
  expect(unknown).toMatchObject({ status: 1, stdout: '' });
  expect(unknown.stderr).toMatch(/^anneal: error: .*nobody.*\n$/);
  expect(await anneal(['chat'], { server, input: ' \n' })).toMatchObject({ status: 2 });
  expect(await anneal(['chat', '--top-p', '2'], { server, input: 'Hello' })).toMatchObject({ status: 2 });
  const env = { TINKER_BASE_URL: 'http://127.0.0.1:9' };
  const nowhere = await anneal(['chat', '--api-key', 'tml-x'], { env, input: 'Hello' });
  expect(nowhere).toMatchObject({ status: 1, stdout: '' });
  expect(nowhere.stderr).toMatch(/^anneal: error: no answer from http:\/\/127\.0\.0\.1:9.*\n$/);
}, 120_000);

/** A terminal whose keys the test presses. */
function terminal(json: boolean, maxTokens?: number) {
  const [input, output, notes] = [new PassThrough(), new PassThrough(), new PassThrough()];
  let [said, noted] = ['', ''];
  output.on('data', (chunk) => (said += chunk));
  notes.on('data', (chunk) => (noted += chunk));
  const done = converse(
    {
      connection: { baseUrl: server.url, apiKey: server.apiKey },
      request: { model: MODEL, temperature: 0, max_tokens: maxTokens },
      json,
    },
    { input, output, notes },
  );
  return { input, done, said: () => said, noted: () => noted };
}

test('a conversation goes on, and begins anew with /reset', async () => {
  const { input, done, said } = terminal(true, 5);
  input.write('One\nTwo\n/reset\nTwo\n/exit\n');
  await done;
  const contents = said()
    .trim()
    .split('\n')
    .map((line) => (JSON.parse(line) as { content: string }).content);
  const user = (content: string) => ({ role: 'user', content });
  const contentOf = async (messages: object[]) => (await completion(messages, 5)).choices[0]!.message.content;
  const first = await contentOf([user('One')]);
  const history = [user('One'), { role: 'assistant', content: first }, user('Two')];
  expect(contents).toEqual([first, await contentOf(history), await contentOf([user('Two')])]);
  expect(contents[1]).not.toBe(contents[2]);
});

test('Ctrl-C cancels the answer, a second one leaves', async () => {
  const { input, done, said, noted } = terminal(false);
  input.write('Tell me everything\n');
  // The echo of the question is there at once; more is the answer.
  await expect
    .poll(() => said().split('everything')[1]?.length ?? 0, { timeout: 30_000, interval: 1 })
    .toBeGreaterThan(4);
  input.write('\x03');
  await expect.poll(noted).toContain('(cancelled)');
  input.write('\x03');
  await done;
});
