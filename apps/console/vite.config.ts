import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

/** While developing, calls go to a server that runs beside: `npm start`. */
const server = process.env.ANNEAL_URL ?? 'http://127.0.0.1:8123';

export default defineConfig({
  plugins: [react()],
  build: {
    target: 'es2022',
    // The Content-Security-Policy takes scripts and fonts from files only.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  resolve: { conditions: ['@anneal/source', 'module', 'browser', 'development|production'] },
  server: {
    proxy: Object.fromEntries(['/console/api', '/api', '/v1'].map((path) => [path, server])),
  },
});
