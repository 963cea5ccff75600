/** Which files of the repository are pages of the site, and where. */
import { posix } from 'node:path';

/** From the folder of this package. */
export const REPOSITORY = '../..';

/** Below the repository; made by `generate.ts`, not committed. */
export const GENERATED = 'docs/reference';

/** Where the sources that pages link to are shown. */
const SOURCES = `${GENERATED}/source`;

const NAMED: Record<string, string> = {
  'README.md': 'docs/index.md',
  'CONTRIBUTING.md': 'docs/contributing.md',
  'SECURITY.md': 'docs/security.md',
};

/**
 * The page that shows a file, as a path in the site, ending in `.md`.
 *
 * @param file Path from the root of the repository. Markdown of `docs/` and the packages' READMEs are pages themselves, anything else
 *   is shown as source.
 */
export function pageOf(file: string): string {
  const readme = /^(?:packages|apps)\/([\w-]+)\/README\.md$/.exec(file);
  const page = NAMED[file] ?? (readme ? `docs/packages/${readme[1]}.md` : file);
  return (isPage(page) ? page : `${SOURCES}/${page}.md`).slice('docs/'.length);
}

function isPage(file: string): boolean {
  return file.startsWith('docs/') && file.endsWith('.md');
}

/** Whether a file is shown as source, in a page that has to be made. */
export function isSource(file: string): boolean {
  return pageOf(file).startsWith(SOURCES.slice('docs/'.length));
}

/** What a relative link in a file points to: a file from the root of the repository, and the rest of the link. */
export function targetOf(file: string, link: string): { file: string; hash: string } | undefined {
  if (link === '' || /^(?:[a-z][a-z+.-]*:|\/|#)/i.test(link)) return undefined;
  const [path = '', hash] = decodeURI(link).split('#', 2);
  return { file: posix.join(posix.dirname(file), path), hash: hash === undefined ? '' : `#${hash}` };
}
