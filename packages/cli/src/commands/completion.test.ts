import { spawnSync } from 'node:child_process';
import { Command } from 'commander';
import { expect, test } from 'vitest';
import { completionCommand, completionScript } from './completion.ts';

function script(shell: 'bash' | 'zsh' | 'fish'): string {
  const program = new Command('anneal');
  const model = program.command('model');
  model.command('pull').option('--json');
  program.command('serve').option('--port <port>');
  program.addCommand(completionCommand(program));
  return completionScript(program, shell);
}

function completions(...words: string[]): string[] {
  const line = words.map((word) => `'${word}'`).join(' ');
  const ask = `COMP_WORDS=(anneal ${line}); COMP_CWORD=${words.length}; _anneal; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const result = spawnSync('bash', ['-c', `${script('bash')}\n${ask}`], { encoding: 'utf8' });
  expect(result.stderr).toBe('');
  return result.stdout.trim().split('\n');
}

test('bash completes commands, subcommands and flags', () => {
  expect(completions('')).toEqual(expect.arrayContaining(['model', 'serve', 'completion']));
  expect(completions('mo')).toEqual(['model']);
  expect(completions('model', 'p')).toEqual(['pull']);
  expect(completions('model', 'pull', '--j')).toEqual(['--json']);
  expect(completions('serve', '--po')).toEqual(['--port']);
});

test('fish and zsh scripts name every command', () => {
  for (const shell of ['zsh', 'fish'] as const) expect(script(shell)).toMatch(/model[\s\S]*pull[\s\S]*serve/);
});
