// Prints what the main entry costs a browser, minified and compressed. Fails when it pulls in a Node built-in.
import { gzipSync } from 'node:zlib';
import { rolldown } from 'rolldown';

const bundle = await rolldown({
  input: new URL('../dist/index.js', import.meta.url).pathname,
  platform: 'browser',
  onLog: (level, log) => {
    if (log.code === 'UNRESOLVED_IMPORT' || /node:/.test(log.message)) throw new Error(log.message);
    if (level !== 'info') console.warn(log.message);
  },
});
const { output } = await bundle.generate({ format: 'esm', minify: true });
const builtin = output.flatMap((chunk) => chunk.imports ?? []).find((name) => name.startsWith('node:'));
if (builtin) throw new Error(`the browser entry imports ${builtin}`);
const kilobytes = (size) => `${(size / 1000).toFixed(1)} kB`;
const entry = output.find((chunk) => chunk.isEntry);
const loadedAtOnce = new Set([entry]);
for (const chunk of loadedAtOnce) {
  for (const name of chunk.imports) loadedAtOnce.add(output.find((other) => other.fileName === name));
}
const report = (label, chunks) => {
  const bytes = Buffer.from(chunks.map((chunk) => chunk.code).join(''));
  console.log(`${label}: ${kilobytes(bytes.length)} minified, ${kilobytes(gzipSync(bytes).length)} gzipped`);
};
report('browser entry', [...loadedAtOnce]);
report(
  'tokenizer, loaded on demand',
  output.filter((chunk) => !loadedAtOnce.has(chunk)),
);
