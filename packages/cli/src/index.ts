export { CliError } from './errors.ts';
export { buildProgram } from './program.ts';
