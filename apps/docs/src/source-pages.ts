/** Pages that show the sources to which other pages link. */
import { globSync, readFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { isSource, targetOf } from './pages.ts';

const PAGES = [
  'docs/*.md',
  'docs/guides/*.md',
  'packages/*/README.md',
  'apps/*/README.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
];

const LANGUAGES: Record<string, string> = {
  '.ts': 'ts',
  '.mjs': 'js',
  '.py': 'python',
  '.json': 'json',
  '.cc': 'cpp',
  '.h': 'cpp',
  '.yaml': 'yaml',
};

/** Files that pages link to and that are no pages, by path from the root; links to nothing are left to the site's own check. */
export function linkedSources(root: string): string[] {
  const links = globSync(PAGES, { cwd: root }).flatMap((page) => {
    const text = readFileSync(join(root, page), 'utf8');
    return [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, link = '']) => targetOf(page, link)?.file ?? page);
  });
  return [...new Set(links)].filter(isSource).sort();
}

/** The Markdown of a page that shows one file. */
export function sourcePage(root: string, file: string): string {
  const text = readFileSync(join(root, file), 'utf8');
  const fence = '`'.repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length + 1)));
  const language = LANGUAGES[extname(file)] ?? 'text';
  return `---\nsearch: false\noutline: false\neditLink: false\n---\n\n# ${file}\n\n${fence}${language}\n${text}${fence}\n`;
}
