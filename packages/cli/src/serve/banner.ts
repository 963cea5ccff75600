/** What `anneal serve` prints once it works: where, with which key, and two programs that can be pasted.
 * tools/compat/compat_banner.py runs both. */

export interface BannerFacts {
  url: string;
  /** Absent when the key was made at an earlier start: only its hash is kept. */
  key?: string;
  models: { name: string; folder: string }[];
}

export function banner(facts: BannerFacts): string {
  const { url, key, models } = facts;
  const names = models.map(({ name, folder }) => `${name}  (${folder})`).join('\n          ');
  const note = key ? '' : ' (with your key in TINKER_API_KEY)';
  return `
Anneal is ready.

  URL     ${url}
  Key     ${key ?? 'as printed at the first start; `anneal keys create` makes another'}
  Models  ${names}

Python, after \`pip install tinker\`${note}:

${pythonSnippet(facts)}

TypeScript, in a folder where @anneal/client and @anneal/tokenizer are installed, such as this checkout${note}:

${typescriptSnippet(facts)}

`;
}

export function pythonSnippet({ url, key, models: [model] }: BannerFacts): string {
  const access = [`base_url=${quoted(url)}`, ...(key ? [`api_key=${quoted(key)}`] : [])].join(', ');
  return [
    'import tinker, transformers',
    `tokenizer = transformers.AutoTokenizer.from_pretrained(${quoted(model?.folder)})`,
    `sampler = tinker.ServiceClient(${access}).create_sampling_client(base_model=${quoted(model?.name)}).result()`,
    'prompt = tinker.ModelInput.from_ints(tokenizer.encode("The capital of France is"))',
    'print(tokenizer.decode(sampler.sample(prompt, 1, tinker.SamplingParams(max_tokens=16, temperature=0)).result().sequences[0].tokens))',
  ].join('\n');
}

export function typescriptSnippet({ url, key, models: [model] }: BannerFacts): string {
  const access = [`baseUrl: ${quoted(url)}`, ...(key ? [`apiKey: ${quoted(key)}`] : [])].join(', ');
  return [
    "import { ServiceClient } from '@anneal/client';",
    "import { loadTokenizer } from '@anneal/tokenizer/node';",
    `const tokenizer = await loadTokenizer(${quoted(model?.folder)});`,
    `const sampler = await new ServiceClient({ ${access} }).createSamplingClient({ baseModel: ${quoted(model?.name)} });`,
    "const prompt = tokenizer.encode('The capital of France is');",
    'const { sequences } = await sampler.sample({ prompt, samplingParams: { max_tokens: 16, temperature: 0 } });',
    'console.log(tokenizer.decode(sequences[0].tokens));',
  ].join('\n');
}

function quoted(text: string | undefined): string {
  return JSON.stringify(text ?? '');
}
