import { defineConfig } from 'vitest/config';

// The console in a real browser, against a server that is being used: one file, its tests in their order.
const conditions = ['@anneal/source', 'node', 'default'];

export default defineConfig({
  root: import.meta.dirname,
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: ['test/**/*.browser.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 240_000,
    hookTimeout: 240_000,
  },
});
