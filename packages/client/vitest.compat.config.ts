import { defineConfig } from 'vitest/config';

// The scenarios against a server: one file after the other, because they measure one machine.
const conditions = ['@anneal/source', 'node', 'import', 'module', 'default'];

export default defineConfig({
  root: import.meta.dirname,
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: ['compat/**/*.test.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 180_000,
    hookTimeout: 180_000,
  },
});
