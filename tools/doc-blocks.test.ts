/** Every code block of the documentation is checked, or says that it is not. */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Command } from 'commander';
import ts from 'typescript';
import { expect, test } from 'vitest';
import { parse as parseYaml } from 'yaml';
import { buildProgram } from '../packages/cli/src/program.ts';
import { blocksOf, documents, programsOf, typescriptProgram } from './testing/doc-blocks.mjs';

const ROOT = dirname(import.meta.dirname);

/** `not-runnable`: shown only. `check-only`: TypeScript that is checked, but not run. `loss-module`: the server of the SDK's tests loads it. */
const MARK = /^(?:not-runnable|check-only|loss-module|excerpt=\S+)?$/;
const TESTED = ['ts', 'js', 'python', 'sh', 'json', 'yaml'];

const blocks = documents.flatMap((document) => blocksOf(document));
const placeOf = ({ document, line }: { document: string; line: number }) => `${document}:${line}`;

test('every block is of a language that is tested, or marked as not runnable', () => {
  expect(blocks.length).toBeGreaterThan(30);
  const untested = blocks.filter(({ language, mark }) => {
    if (!MARK.test(mark)) return true;
    if (mark === 'check-only') return language !== 'ts';
    if (mark === 'loss-module') return language !== 'js';
    if (mark !== '') return false;
    return !TESTED.includes(language) || language === 'js';
  });
  expect(untested.map((block) => `${placeOf(block)}: "${block.language} ${block.mark}"`)).toEqual([]);
});

test('JSON and YAML can be parsed', () => {
  for (const { language, mark, text } of blocks) {
    if (mark === 'not-runnable') continue;
    if (language === 'json') JSON.parse(text);
    if (language === 'yaml') parseYaml(text);
  }
});

test('what is quoted from a file stands there', () => {
  const bare = (text: string) => text.replace(/\s+/g, ' ').trim();
  for (const block of blocks.filter(({ mark }) => mark.startsWith('excerpt='))) {
    const source = readFileSync(join(ROOT, block.mark.slice('excerpt='.length)), 'utf8');
    expect(bare(source), placeOf(block)).toContain(bare(block.text));
  }
});

test('commands of anneal exist, with their options', () => {
  const commands = blocks
    .filter(({ language }) => language === 'sh')
    .flatMap((block) => annealCommands(block.text));
  expect(commands.length).toBeGreaterThan(7);
  const wrong = commands.flatMap((words) => {
    const problem = problemOf(buildProgram(), words);
    return problem === undefined ? [] : [`anneal ${words.join(' ')}: ${problem}`];
  });
  expect(wrong).toEqual([]);
  expect(problemOf(buildProgram(), ['serve', '--no-such-flag'])).toContain('--no-such-flag');
  expect(problemOf(buildProgram(), ['run', 'fly'])).toContain('fly');
});

test('TypeScript is correct', { timeout: 120_000 }, () => {
  const programs = documents.flatMap((document) => {
    const ours = programsOf(document, ['not-runnable']).find(({ language }) => language === 'ts');
    return ours ? [[join(ROOT, `${document}.ts`), ours.text] as const] : [];
  });
  expect(programs.length).toBeGreaterThan(3);
  expect(diagnose(new Map(programs))).toEqual([]);
  const wrong = typescriptProgram([
    { text: "import { Datum } from '@anneal/client';\nconst a = Datum.from({});" },
    { text: 'const a = missing;' },
  ]);
  expect(diagnose(new Map([[join(ROOT, 'docs/wrong.ts'), wrong]]))).toHaveLength(2);
});

/** Words after `anneal` on each line that calls it, also as `npx anneal`, `npm start --` and `npm run anneal --`. */
function annealCommands(text: string): string[][] {
  return text
    .replaceAll('\\\n', ' ')
    .split('\n')
    .flatMap((line) => {
      const called = /(?:^|[|&(]\s*|npx )anneal (.*)$|npm (?:run anneal|(start)) -- (.*)$/.exec(
        line.replace(/\s+#.*$/, ''),
      );
      if (!called) return [];
      const words = (called[1] ?? called[3] ?? '').split(/\s[|<>&]/)[0]?.match(/'[^']*'|"[^"]*"|\S+/g) ?? [];
      return [
        [...(called[2] ? ['serve'] : []), ...words.map((word) => word.replace(/^(['"])(.*)\1$/, '$2'))],
      ];
    });
}

/** What commander says against a command line, which is not carried out. */
function problemOf(program: Command, words: string[]): string | undefined {
  const prepare = (command: Command): void => {
    command.exitOverride().configureOutput({ writeErr: () => {}, writeOut: () => {} });
    if (command.commands.length === 0) command.action(() => {});
    for (const child of command.commands) prepare(child);
  };
  prepare(program);
  try {
    program.parse(words, { from: 'user' });
    return undefined;
  } catch (error) {
    const { code, message } = error as { code: string; message: string };
    return code === 'commander.help' && words.length > 1 ? `unknown: ${words.join(' ')}` : message;
  }
}

/** Errors of modules that are not on the disk, checked with the repository's settings. */
function diagnose(modules: Map<string, string>): string[] {
  const { config } = ts.readConfigFile(join(ROOT, 'tsconfig.check.json'), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent({ ...config, include: [], files: [] }, ts.sys, ROOT);
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile } = host;
  host.fileExists = (file) => modules.has(file) || fileExists(file);
  host.readFile = (file) => modules.get(file) ?? readFile(file);
  const program = ts.createProgram([...modules.keys()], options, host);
  return [...modules.keys()].flatMap((file) => {
    const source = program.getSourceFile(file);
    const found = [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)];
    return found.map(({ messageText, start = 0 }) => {
      const line = source?.getLineAndCharacterOfPosition(start).line ?? 0;
      const excerpt = source?.text.split('\n')[line] ?? '';
      return `${file.slice(ROOT.length + 1)}: ${ts.flattenDiagnosticMessageText(messageText, '\n')} (${excerpt.trim()})`;
    });
  });
}
