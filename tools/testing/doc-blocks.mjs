/**
 * The code blocks of the documentation, as the tests take them: `node tools/testing/doc-blocks.mjs` prints JSON with every block, and
 * with the program that each page's blocks make together.
 */
import { globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { remark } from 'remark';

const ROOT = dirname(dirname(import.meta.dirname));

/** What is read by others, or as a whole by a machine, is no documentation. */
const DOCUMENTS = [
  '*.md',
  'docs/*.md',
  'docs/guides/*.md',
  'packages/*/README.md',
  'apps/*/README.md',
  'examples/*.md',
];

export const documents = globSync(DOCUMENTS, { cwd: ROOT }).sort();

/**
 * @typedef {object} Block
 * @property {string} document Path from the root.
 * @property {number} line
 * @property {string} language The first word after the fence.
 * @property {string} mark The rest: how the block is tested, where it isn't run.
 * @property {string} text
 */

/** A comment of the form `<!-- setup ts … -->` runs with the page's blocks, unseen: what the reader has by then. */
const SETUP = /^<!--\s*setup (?<language>\w+) ?(?<mark>[\w-]*)\n(?<text>[\s\S]*?)-->$/;

function* nodesOf(node) {
  yield node;
  for (const child of node.children ?? []) yield* nodesOf(child);
}

/** @returns {Block[]} the blocks of a page, in its order, the setup among them. */
export function blocksOf(document, text = readFileSync(join(ROOT, document), 'utf8')) {
  return [...nodesOf(remark().parse(text))].flatMap((node) => {
    const at = { document, line: node.position?.start.line ?? 0 };
    if (node.type === 'code')
      return [{ ...at, language: node.lang ?? '', mark: node.meta ?? '', text: node.value }];
    const setup = node.type === 'html' ? SETUP.exec(node.value)?.groups : undefined;
    return setup ? [{ ...at, ...setup }] : [];
  });
}

/** One module of a page's TypeScript: each block sees what those before it declare, and may declare the same name anew. */
export function typescriptProgram(blocks) {
  const named = new Map();
  const others = new Set();
  const bodies = blocks.map(({ text }) =>
    text.replace(/^import (?:\{(?<names>[^}]*)\} from )?(?<rest>[^;]*);\n?/gm, (statement, names, rest) => {
      if (names === undefined) others.add(statement.trim());
      const known = named.get(rest) ?? new Set();
      for (const name of names?.split(',') ?? []) if (name.trim() !== '') known.add(name.trim());
      if (names !== undefined) named.set(rest, known);
      return '';
    }),
  );
  const imports = [...named].map(([from, names]) => `import { ${[...names].join(', ')} } from ${from};`);
  return [
    ...others,
    ...imports,
    'export {};',
    ...bodies.map((body) => `{\n${body.replace(/^export (?!default)/gm, '')}`),
    '}'.repeat(bodies.length),
    '',
  ].join('\n');
}

/** A page's programs: its blocks of a language that carry none of the `left` marks, as one text. */
export function programsOf(document, left = ['not-runnable', 'check-only']) {
  const blocks = blocksOf(document).filter(
    ({ mark }) => !left.some((word) => mark.split(' ').includes(word)),
  );
  const of = (language) =>
    blocks.filter((block) => block.language === language && !block.mark.startsWith('excerpt='));
  const [ts, python, sh] = [of('ts'), of('python'), of('sh')];
  const joined = (list) => list.map(({ text }) => text).join('\n');
  return [
    ...(ts.length > 0 ? [{ document, language: 'ts', text: typescriptProgram(ts) }] : []),
    ...(python.length > 0 ? [{ document, language: 'python', text: `${joined(python)}\n` }] : []),
    ...(sh.length > 0 ? [{ document, language: 'sh', text: `${joined(sh)}\n` }] : []),
  ];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const blocks = documents.flatMap((document) => blocksOf(document));
  const programs = documents.flatMap((document) => programsOf(document));
  console.log(JSON.stringify({ blocks, programs }));
}
