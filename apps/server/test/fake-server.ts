/** Runs the server with the fake engine, for a client from outside: `node fake-server.ts PORT DATA_DIR [journalSeconds]`. */
import { ServerConfig, startServer } from '../src/index.ts';
import { FakeEngine } from './fake-engine.ts';

const [port = '0', dataDir = './data', journalSeconds = '60'] = process.argv.slice(2);
const config = ServerConfig.parse({
  port: Number(port),
  dataDir,
  journalSeconds: Number(journalSeconds),
  models: [{ name: 'tiny', folder: '/models/tiny' }],
  apiKey: 'tml-fake-server-key',
  logLevel: process.env.LOG_LEVEL ?? 'warn',
});
const server = await startServer(config, { createEngine: async () => new FakeEngine() });
console.log(server.url);
process.once('SIGTERM', () => {
  void server.close().then(() => process.exit(0));
});
