/** Runs one test program each and counts what it reports. A program that reports nothing counts as one failure. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { stripVTControlCharacters } from 'node:util';

const ROOT = join(import.meta.dirname, '..', '..');

/** @typedef {{ name: string, passed: number, failed: number, skipped: number, failures?: string[] }} Count `failures`: the failed tests, each with the first lines of its message. */

/** How much of a failed test's message the results repeat. */
const MESSAGE_LINES = 6;
const MESSAGE_LENGTH = 600;

function exitCode(command, args, env) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: ROOT, env: { ...process.env, ...env }, stdio: 'inherit' });
    child.on('error', (error) => {
      console.error(`${command}: ${error.message}`);
      resolve(127);
    });
    child.on('exit', (code) => resolve(code ?? 1));
  });
}

async function withFolder(work) {
  const folder = mkdtempSync(join(tmpdir(), 'anneal-report-'));
  try {
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function counted(name, code, { passed = 0, failed = 0, skipped = 0, failures = [] } = {}) {
  const unexplained = code !== 0 && failed === 0;
  const nothingRan = passed + failed === 0;
  return {
    name,
    passed,
    failed: unexplained || nothingRan ? Math.max(failed, 1) : failed,
    skipped,
    failures,
  };
}

function failure(test, message = '') {
  const lines = stripVTControlCharacters(message).split('\n').slice(0, MESSAGE_LINES);
  return [test, ...lines].join('\n    ').slice(0, MESSAGE_LENGTH);
}

/** One program that passes when it exits with 0, for example a linter. */
export async function runCheck(name, command, args) {
  const code = await exitCode(command, args);
  return code === 0 ? counted(name, 0, { passed: 1 }) : counted(name, code, { failed: 1 });
}

export function runVitest(name, args = [], env = {}) {
  return withFolder(async (folder) => {
    const report = join(folder, 'vitest.json');
    const vitest = join(ROOT, 'node_modules', 'vitest', 'vitest.mjs');
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
    const code = await exitCode(process.execPath, [vitest, 'run', ...reporters, ...args], env);
    return counted(name, code, readVitest(report));
  });
}

function readVitest(report) {
  try {
    const result = JSON.parse(readFileSync(report, 'utf8'));
    // A file that fails while it loads has no tests, and so no failed ones.
    const unloaded = result.testResults.filter(
      (file) => file.status === 'failed' && file.assertionResults.length === 0,
    );
    return {
      passed: result.numPassedTests,
      failed: result.numFailedTests + unloaded.length,
      skipped: result.numPendingTests + result.numTodoTests,
      failures: result.testResults.flatMap(failuresOfFile),
    };
  } catch {
    return undefined;
  }
}

function failuresOfFile({ name, status, message, assertionResults }) {
  const file = relative(ROOT, name);
  if (status === 'failed' && assertionResults.length === 0) return [failure(file, message)];
  return assertionResults
    .filter((test) => test.status === 'failed')
    .map((test) => failure(`${file} > ${test.fullName}`, test.failureMessages[0]));
}

/** @param {{ python: string, paths: string[], args?: string[], env: Record<string, string> }} options */
export function runPytest(name, { python, paths, args = [], env }) {
  return withFolder(async (reports) => {
    const report = join(reports, 'pytest.xml');
    const options = [
      '-m',
      'pytest',
      ...paths,
      '--timeout=300',
      '-p',
      'no:cacheprovider',
      `--junitxml=${report}`,
    ];
    const code = await exitCode(python, [...options, ...args], { PYTHONDONTWRITEBYTECODE: '1', ...env });
    return counted(name, code, readJunit(report));
  });
}

function readJunit(report) {
  try {
    const xml = readFileSync(report, 'utf8');
    const attributes = xml.match(/<testsuite [^>]*>/)[0];
    const number = (key) => Number(attributes.match(new RegExp(`\\b${key}="(\\d+)"`))[1]);
    const [failed, skipped] = [number('failures') + number('errors'), number('skipped')];
    const failures = [
      ...xml.matchAll(
        /<testcase classname="([^"]*)" name="([^"]*)"[^>]*><(?:failure|error) message="([^"]*)"/g,
      ),
    ].map(([, file, name, message]) => failure(`${file} > ${name}`, message.replaceAll('&#10;', '\n')));
    return { passed: number('tests') - failed - skipped, failed, skipped, failures };
  } catch {
    return undefined;
  }
}
