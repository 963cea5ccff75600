import { slug } from 'github-slugger';
import { defineConfig } from 'vitepress';
import { repositoryLinks } from '../src/links.ts';
import { pageOf, REPOSITORY } from '../src/pages.ts';
import { sidebar } from '../src/sidebar.ts';

const READMES = ['packages/:name/README.md', 'apps/:name/README.md'];

export default defineConfig({
  title: 'Anneal',
  description: 'Fine-tune and sample language models on your own machine, through the Tinker API',
  lang: 'en',
  base: process.env.ANNEAL_DOCS_BASE ?? '/',
  srcDir: REPOSITORY,
  outDir: 'dist',
  cacheDir: '.vitepress/cache',
  // The pages are those of pages.ts; everything else that is Markdown is not for readers of the site.
  srcExclude: [
    'README.md',
    'CODE_OF_CONDUCT.md',
    '.changeset/**',
    '**/dist/**',
    '**/fixtures/**',
    'examples/**',
    'tools/**',
    'deploy/**',
  ],
  rewrites: {
    'docs/:page(.*)': ':page',
    ...Object.fromEntries(READMES.map((path) => [path, 'packages/:name.md'])),
    'CONTRIBUTING.md': pageOf('CONTRIBUTING.md'),
    'SECURITY.md': pageOf('SECURITY.md'),
  },
  markdown: {
    anchor: { slugify: slug },
    config: (markdown) => repositoryLinks(markdown),
    theme: { light: 'github-light-high-contrast', dark: 'github-dark-high-contrast' },
  },
  themeConfig: {
    nav: [
      { text: 'Quickstart', link: '/quickstart' },
      { text: 'Guides', link: '/guides/sft', activeMatch: '^/guides/' },
      { text: 'API', link: '/api', activeMatch: '^/(api|reference/api)' },
      { text: 'TypeScript', link: '/client', activeMatch: '^/(client|reference/client)' },
      { text: 'Operations', link: '/operations' },
    ],
    sidebar,
    outline: [2, 3],
    search: { provider: 'local' },
  },
});
