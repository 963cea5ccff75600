import { defineConfig } from 'vitest/config';

// The built site in a real browser; `npm run site` comes first.
export default defineConfig({
  root: import.meta.dirname,
  test: {
    include: ['test/**/*.browser.ts'],
    pool: 'forks',
    testTimeout: 120_000,
    hookTimeout: 60_000,
  },
});
