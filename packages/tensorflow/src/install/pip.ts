/** Downloads wheels with the person's own pip, so that their index, proxy and certificates settings count. */
import { mkdir, readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { diskFull } from './cache-dir.ts';
import { TensorflowSetupError } from './errors.ts';
import { lastLines, runCommand } from './run-command.ts';
import { WHEEL_PYTHON } from './wheel-plan.ts';

const CANDIDATES = [
  ['python3', '-m', 'pip'],
  ['python', '-m', 'pip'],
  ['pip3'],
  ['pip'],
  ['uv', 'tool', 'run', 'pip'],
];

/** The command that runs pip on this machine. */
export async function findPip(env: NodeJS.ProcessEnv): Promise<string[]> {
  for (const command of CANDIDATES) {
    const { exitCode } = await runCommand([...command, '--version'], { env, timeoutMs: 60_000 });
    if (exitCode === 0) return command;
  }
  throw new TensorflowSetupError(
    'pip_missing',
    "Python's pip was not found; it downloads the TensorFlow library.",
    'Install Python 3 with pip (Debian, Ubuntu: apt install python3-pip; Fedora: dnf install python3-pip) and start again.',
  );
}

export interface WheelDownload {
  pip: string[];
  /** As pip takes it, e.g. `tensorflow-cpu==2.21.0`. */
  requirement: string;
  platformTags: string[];
  /** An empty or missing folder; pip's temporary files go there as well. */
  folder: string;
  env: NodeJS.ProcessEnv;
  onBytes: (receivedBytes: number) => void;
}

/** Downloads one wheel, without its dependencies, and returns its path. */
export async function downloadWheel(download: WheelDownload): Promise<string> {
  const { pip, requirement, platformTags, folder, env, onBytes } = download;
  const temporary = path.join(folder, 'tmp');
  await mkdir(temporary, { recursive: true });
  const watch = setInterval(() => void largestFile(folder).then(onBytes), 250);
  const command = [
    ...[...pip, 'download', '--no-deps', '--only-binary', ':all:', '--python-version', WHEEL_PYTHON],
    ...['--implementation', 'cp', ...platformTags.flatMap((tag) => ['--platform', tag])],
    ...[
      '--dest',
      folder,
      '--no-cache-dir',
      '--progress-bar',
      'off',
      '--no-input',
      '--disable-pip-version-check',
    ],
    requirement,
  ];
  const result = await runCommand(command, { env: { ...env, TMPDIR: temporary } }).finally(() =>
    clearInterval(watch),
  );
  if (result.exitCode !== 0) throw downloadError(folder, requirement, `${result.stdout}\n${result.stderr}`);
  const wheel = (await readdir(folder)).find((file) => file.endsWith('.whl'));
  if (!wheel) throw downloadError(folder, requirement, 'pip ended without leaving a wheel');
  return path.join(folder, wheel);
}

function downloadError(folder: string, requirement: string, output: string): TensorflowSetupError {
  if (/no space left on device|disk quota exceeded/i.test(output)) return diskFull(folder);
  const errors = output.split('\n').filter((line) => line.startsWith('ERROR'));
  const said = lastLines(errors.length > 0 ? errors.join('\n') : output, 3);
  const remedy = "Check the network and pip's index settings (`pip config list`), then start again.";
  return new TensorflowSetupError(
    'download_failed',
    `pip could not download ${requirement}:\n${said}\n`,
    remedy,
  );
}

/** pip writes a wheel under a temporary name and then copies it, so the largest file shows how far it is. */
async function largestFile(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true }).catch(() => []);
  const sizes = entries.map((entry) =>
    stat(path.join(folder, entry)).then(
      (s) => (s.isFile() ? s.size : 0),
      () => 0,
    ),
  );
  return Math.max(0, ...(await Promise.all(sizes)));
}
