/** Programs that do the same work: each a process that answers lines, so that they can take turns. */
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { ensurePythonEnv } from '../testing/python-env.mjs';

const HERE = import.meta.dirname;
const TOOLS = dirname(HERE);
const ROOT = dirname(TOOLS);
const MAIN = join(ROOT, 'packages', 'cli', 'src', 'main.ts');
const KEPT_ERRORS = 4000;

/** Anneal's own command line, straight from its sources. */
export const ANNEAL = [
  process.execPath,
  '--conditions=@anneal/source',
  '--disable-warning=ExperimentalWarning',
  MAIN,
];

const say = (line) => console.error(`anneal: ${line}`);

/**
 * What `--against` takes, and the contenders it stands for: a name, what it can do, and its command.
 *
 * @param {{ model: string, folder: string }} options
 */
export function contendersOf(against, { model, folder }) {
  const threads = String(availableParallelism());
  if (against === 'torch') {
    const python = ensurePythonEnv('interop', join(TOOLS, 'interop', 'requirements.txt'), say);
    return [
      ['torch fp32', 'float32'],
      ['torch bf16', 'bfloat16'],
    ].map(([name, dtype]) => ({
      name,
      works: ['train', 'generate'],
      command: [python, join(HERE, 'torch_contender.py'), folder, dtype, threads],
    }));
  }
  if (against === 'llama.cpp') {
    const python = ensurePythonEnv('bench-llama.cpp', join(HERE, 'llama.cpp', 'requirements.txt'), say);
    return ['4', '16'].map((bits) => ({
      name: `llama.cpp ${bits}-bit`,
      works: ['generate'],
      command: [python, join(HERE, 'llama.cpp', 'llama_contender.py'), bits, threads],
    }));
  }
  if (!URL.canParse(against)) throw new Error(`--against: torch, llama.cpp or a URL, not "${against}"`);
  return [
    {
      name: against,
      works: ['train', 'generate'],
      command: [...ANNEAL, 'bench', '--lines', '--url', against, '--model', model],
    },
  ];
}

/** Anneal's engine in a process of its own. */
export function annealContender(model, precision) {
  return {
    name: `anneal ${precision}`,
    works: ['train', 'generate'],
    command: [...ANNEAL, 'bench', '--lines', '--model', model, '--precision', precision],
  };
}

/** Starts a contender; resolves once it is ready. */
export async function start({ name, works, command: [program, ...args] }) {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (chunk) => {
    errors = (errors + chunk).slice(-KEPT_ERRORS);
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const kill = () => child.kill('SIGKILL');
  process.on('exit', kill);
  const ended = new Promise((resolve) => child.once('close', resolve));
  const read = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${name} ended:\n${errors}`);
    return JSON.parse(value);
  };
  const { ready } = await read();
  return {
    name,
    works,
    about: ready,
    ask: (request) => {
      child.stdin.write(`${JSON.stringify(request)}\n`);
      return read();
    },
    stop: async () => {
      child.stdin.end();
      await ended;
      process.off('exit', kill);
    },
  };
}
