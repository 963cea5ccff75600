/** Which model a command is about when none is named. */
import { z } from 'zod';
import { usageError } from './errors.ts';
import { type Connection, callServer } from './remote.ts';

const Models = z.object({ data: z.array(z.object({ id: z.string() })) });

/** The name of the one model that is served. Throws CliError when there are several. */
export async function onlyModel(connection: Connection): Promise<string> {
  const response = await callServer(connection, '/v1/models');
  const names = Models.parse(await response.json()).data.map(({ id }) => id);
  const [only] = names;
  if (only !== undefined && names.length === 1) return only;
  throw usageError(`--model: say which one: ${names.join(', ')}`);
}
