/** Links that work in the repository, made to work in the site. */
import { relative, resolve } from 'node:path';
import { pageOf, REPOSITORY, targetOf } from './pages.ts';

const ROOT = resolve(import.meta.dirname, '..', REPOSITORY);

interface Token {
  type: string;
  children: Token[] | null;
  attrGet(name: string): string | null;
  attrSet(name: string, value: string): void;
}

interface Markdown {
  core: { ruler: { push(name: string, rule: (state: { tokens: Token[]; env: Page }) => void): void } };
}

/** What VitePress tells about the file that it renders. */
interface Page {
  path: string;
  realPath?: string;
}

/** A markdown-it plugin: each relative link goes to the page that shows its file. */
export function repositoryLinks(markdown: Markdown): void {
  markdown.core.ruler.push('repository-links', ({ tokens, env }) => {
    const file = relative(ROOT, env.realPath ?? env.path);
    for (const token of tokens.flatMap(({ children }) => children ?? [])) {
      if (token.type !== 'link_open') continue;
      const target = targetOf(file, token.attrGet('href') ?? '');
      if (target) token.attrSet('href', `/${pageOf(target.file)}${target.hash}`);
    }
  });
}
