/** Runs one program to its end and captures what it printed. */
import { spawn } from 'node:child_process';

export interface CommandResult {
  /** Null when the program was not found or was killed. */
  exitCode: number | null;
  notFound: boolean;
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
      timeout: options.timeoutMs,
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', (error) =>
      resolve({ exitCode: null, notFound: true, stdout, stderr: stderr || error.message }),
    );
    child.on('close', (exitCode) => resolve({ exitCode, notFound: false, stdout, stderr }));
  });
}

/** The last lines a program printed: enough of an error to act on. */
export function lastLines(text: string, count: number): string {
  return text.trim().split('\n').slice(-count).join('\n');
}
