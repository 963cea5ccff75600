/** Runs one program to its end and captures what it printed. */
import { spawn } from 'node:child_process';

export interface CommandResult {
  /** Null when the program was not found or was killed. */
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

/** Never rejects for a failing program: look at `exitCode`. */
export function runCommand(
  command: string[],
  options: { env?: NodeJS.ProcessEnv; timeoutMs?: number } = {},
): Promise<CommandResult> {
  const [program = '', ...args] = command;
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      env: options.env ?? process.env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    // spawn's own timeout keeps the process alive when the program does not exist.
    const timer = options.timeoutMs ? setTimeout(() => child.kill(), options.timeoutMs) : undefined;
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    const settle = (exitCode: number | null, reason: string) => {
      clearTimeout(timer);
      resolve({ exitCode, stdout, stderr: stderr || reason });
    };
    child.on('error', (error) => settle(null, error.message));
    child.on('close', (exitCode) => settle(exitCode, ''));
  });
}

/** The last lines a program printed: enough of an error to act on. */
export function lastLines(text: string, count: number): string {
  return text.trim().split('\n').slice(-count).join('\n');
}
