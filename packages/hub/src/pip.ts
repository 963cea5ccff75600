// Downloads a wheel with the person's own pip, so that their index, proxy and certificate settings count.
import { spawn } from 'node:child_process';
import { mkdir, readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { SourceUnavailable } from './errors.ts';

const PIP_COMMANDS = [['python3', '-m', 'pip'], ['python', '-m', 'pip'], ['pip3'], ['pip']];

export interface WheelRequest {
  /** As pip takes it: `name==version`. */
  readonly requirement: string;
  /** An empty or missing folder, which pip's temporary files use too. */
  readonly folder: string;
  readonly env: NodeJS.ProcessEnv;
  readonly onBytes: (receivedBytes: number) => void;
}

/**
 * Downloads one pure-Python wheel without its dependencies and returns its path.
 *
 * @throws SourceUnavailable when pip is missing or fails
 */
export async function downloadWheel({ requirement, folder, env, onBytes }: WheelRequest): Promise<string> {
  const pip = await findPip(env, requirement);
  const temporary = path.join(folder, 'tmp');
  await mkdir(temporary, { recursive: true });
  const options = [
    '--no-deps',
    '--only-binary',
    ':all:',
    '--no-input',
    '--disable-pip-version-check',
    '--progress-bar',
    'off',
  ];
  const command = [...pip, 'download', ...options, '--dest', folder, requirement];
  // pip shows no bar without a terminal: the largest file tells how far it is.
  const watch = setInterval(() => void largestFile(folder).then(onBytes), 250);
  const { exitCode, output } = await run(command, { ...env, TMPDIR: temporary }).finally(() =>
    clearInterval(watch),
  );
  const wheel = (await readdir(folder)).find((file) => file.endsWith('.whl'));
  if (exitCode === 0 && wheel) return path.join(folder, wheel);
  const said = output.split('\n').filter((line) => line.startsWith('ERROR'));
  throw new SourceUnavailable(
    `PyPI package ${requirement}`,
    `pip could not download it: ${said.at(-1) ?? output.trim().slice(-300)}`,
    {
      advice: "Check the network and pip's index settings (`pip config list`).",
    },
  );
}

async function findPip(env: NodeJS.ProcessEnv, requirement: string): Promise<string[]> {
  for (const command of PIP_COMMANDS) {
    if ((await run([...command, '--version'], env)).exitCode === 0) return command;
  }
  throw new SourceUnavailable(`PyPI package ${requirement}`, "Python's pip was not found", {
    advice: 'Install Python 3 with pip (Debian, Ubuntu: apt install python3-pip).',
  });
}

function run(
  command: string[],
  env: NodeJS.ProcessEnv,
): Promise<{ exitCode: number | null; output: string }> {
  const [program = '', ...args] = command;
  return new Promise((resolve) => {
    const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    const collect = (text: string) => {
      output += text;
    };
    child.stdout.setEncoding('utf8').on('data', collect);
    child.stderr.setEncoding('utf8').on('data', collect);
    child.on('error', (error) => resolve({ exitCode: null, output: error.message }));
    child.on('close', (exitCode) => resolve({ exitCode, output }));
  });
}

async function largestFile(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true }).catch(() => []);
  const sizes = await Promise.all(
    entries.map((entry) =>
      stat(path.join(folder, entry)).then(
        (stats) => (stats.isFile() ? stats.size : 0),
        () => 0,
      ),
    ),
  );
  return Math.max(0, ...sizes);
}
