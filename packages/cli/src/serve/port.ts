import { createServer } from 'node:net';
import { CliError } from '../errors.ts';

/**
 * Fails early when nothing can listen there, before minutes go into loading a model.
 *
 * @throws CliError that says who may hold the port, or why the address is wrong.
 */
export async function requireFreePort(host: string, port: number): Promise<void> {
  if (port === 0) return;
  const probe = createServer();
  try {
    await new Promise<void>((resolve, reject) => {
      probe.once('error', reject).listen({ host, port }, resolve);
    });
  } catch (cause) {
    throw listenError(host, port, cause as NodeJS.ErrnoException);
  }
  await new Promise((resolve) => probe.close(resolve));
}

export function listenError(host: string, port: number, cause: NodeJS.ErrnoException): CliError {
  switch (cause.code) {
    case 'EADDRINUSE':
      return new CliError(
        `--port: ${host}:${port} is taken by another program (another Anneal?); stop it or choose another port`,
        { cause },
      );
    case 'EACCES':
      return new CliError(`--port: ${port} needs more rights than this user has; choose one above 1023`, {
        cause,
      });
    default:
      return new CliError(`--host: can't listen on ${host}:${port} (${cause.message})`, { cause });
  }
}
