/** The order in which the pages are read. */

interface Item {
  text: string;
  link?: string;
  items?: Item[];
}

const API_TAGS = [
  ['service', 'Service'],
  ['sessions', 'Sessions'],
  ['models', 'Models'],
  ['training', 'Training'],
  ['futures', 'Futures'],
  ['sampling', 'Sampling'],
  ['training-runs', 'Training runs'],
  ['checkpoints', 'Checkpoints'],
  ['downloads', 'Downloads'],
  ['usage', 'Usage'],
  ['keys', 'Keys'],
  ['openai', 'OpenAI'],
  ['console', 'Console'],
  ['schemas', 'Messages'],
] as const;

const PACKAGES = [
  'server',
  'console',
  'cli',
  'client',
  'types',
  'engine',
  'tensorflow',
  'tokenizer',
  'safetensors',
  'hub',
  'store',
] as const;

const pages: Item[] = [
  {
    text: 'Start',
    items: [
      { text: 'Quickstart', link: '/quickstart' },
      { text: 'Concepts', link: '/concepts' },
      { text: 'Web console', link: '/console' },
      { text: 'Questions', link: '/faq' },
    ],
  },
  {
    text: 'Guides',
    items: [
      { text: 'Supervised fine-tuning', link: '/guides/sft' },
      { text: 'Reinforcement learning', link: '/guides/rl' },
      { text: 'Preferences (DPO)', link: '/guides/dpo' },
      { text: 'Distillation', link: '/guides/distillation' },
      { text: 'Images', link: '/images' },
      { text: 'OpenAI clients', link: '/openai' },
    ],
  },
  {
    text: 'Reference',
    items: [
      { text: 'HTTP API', link: '/api' },
      { text: 'Every call', link: '/reference/api/training' },
      { text: 'TypeScript client', link: '/client' },
      { text: 'Its classes and types', link: '/reference/client/index/' },
      { text: 'Python SDK compatibility', link: '/compatibility' },
      { text: 'Losses', link: '/losses' },
      { text: 'Configuration', link: '/configuration' },
      { text: 'Errors', link: '/errors' },
    ],
  },
  {
    text: 'Operations',
    items: [
      { text: 'Running a server', link: '/operations' },
      { text: 'Security', link: '/security' },
      { text: 'Benchmarks', link: '/benchmarks' },
      { text: 'Other servers', link: '/comparison' },
    ],
  },
  {
    text: 'Extending',
    items: [
      { text: 'Architecture', link: '/architecture' },
      { text: 'A loss of your own', link: '/losses#a-loss-of-your-own' },
      { text: 'A model family', link: '/adding-a-model' },
      { text: 'Contributing', link: '/contributing' },
      { text: 'Packages', link: '/packages/server' },
    ],
  },
];

/** By the beginning of a page's address. */
export const sidebar: Record<string, Item[]> = {
  '/': pages,
  '/reference/api/': [
    {
      text: 'HTTP API',
      items: [
        { text: 'Overview', link: '/api' },
        ...API_TAGS.map(([name, text]) => ({ text, link: `/reference/api/${name}` })),
      ],
    },
  ],
  '/packages/': [
    {
      text: 'Packages',
      items: [
        { text: 'Architecture', link: '/architecture' },
        ...PACKAGES.map((name) => ({ text: name, link: `/packages/${name}` })),
      ],
    },
  ],
};
