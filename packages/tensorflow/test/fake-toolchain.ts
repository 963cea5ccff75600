/**
 * Stand-ins for pip and g++ in a folder that tests use as the whole PATH. The fake pip hands out a small wheel made by
 * Python's own zip writer; the fake g++ has the real one compile an empty Node.js addon. Both log that they were called.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { TENSORFLOW_VERSION } from '../src/install/wheel-plan.ts';

type Tool = 'python3' | 'g++';

export interface FakeToolchain {
  cacheDir: string;
  /** Variables that make a process see the fakes only, and no GPU. */
  env: Record<string, string>;
  /** Downloads and compilations so far, in order: `python3` or `g++` each. */
  calls: () => Tool[];
  /** What a tool does after it was logged: an ES module that sees `args`, `option(name)`, `fs` and `path`. */
  set: (tool: Tool, body: string) => void;
  remove: (tool: Tool) => void;
  dispose: () => void;
}

const PRELUDE = `
import fs from 'node:fs';
import path from 'node:path';
import { execFileSync } from 'node:child_process';
const args = process.argv.slice(2);
const option = (name) => args[args.indexOf(name) + 1];
if (args.includes('--version')) process.exit(0);
`;

export function fakeToolchain(): FakeToolchain {
  const folder = mkdtempSync(path.join(tmpdir(), 'anneal-fake-tools-'));
  const bin = path.join(folder, 'bin');
  const log = path.join(folder, 'calls.log');
  mkdirSync(bin);
  const set = (tool: Tool, body: string) => {
    const script = path.join(folder, `${tool}.mjs`);
    writeFileSync(script, `${PRELUDE}fs.appendFileSync('${log}', '${tool}\\n');\n${body}`);
    writeFileSync(path.join(bin, tool), `#!/bin/sh\nexec ${process.execPath} ${script} "$@"\n`, {
      mode: 0o755,
    });
  };
  set('python3', copyWheel(folder));
  set('g++', compileEmptyAddon(folder));
  const cacheDir = path.join(folder, 'cache');
  return {
    cacheDir,
    env: { PATH: bin, ANNEAL_CACHE_DIR: cacheDir, CUDA_VISIBLE_DEVICES: '', CXX: '' },
    calls: () => (existsSync(log) ? (readFileSync(log, 'utf8').trim().split('\n') as Tool[]) : []),
    set,
    remove: (tool) => rmSync(path.join(bin, tool)),
    dispose: () => rmSync(folder, { recursive: true, force: true }),
  };
}

function copyWheel(folder: string): string {
  const name = `tensorflow_cpu-${TENSORFLOW_VERSION}-cp312-cp312-manylinux_2_27_x86_64.whl`;
  const wheel = path.join(folder, name);
  writeWheel(wheel, {
    'tensorflow/libtensorflow_cc.so.2': 'library',
    'tensorflow/libtensorflow_framework.so.2': 'framework',
    'tensorflow/include/tensorflow/c/c_api.h': '// header',
    'tensorflow/python/keras.py': 'unwanted',
  });
  return `fs.copyFileSync('${wheel}', path.join(option('--dest'), '${name}'));`;
}

function compileEmptyAddon(folder: string): string {
  const source = path.join(folder, 'empty.c');
  writeFileSync(source, '#include <node_api.h>\nNAPI_MODULE_INIT() { return exports; }\n');
  const compiler = execFileSync('sh', ['-c', 'command -v g++'], { encoding: 'utf8' }).trim();
  const { include_dir } = createRequire(import.meta.url)('node-api-headers') as { include_dir: string };
  const command = ['-shared', '-fPIC', `-I${include_dir}`, source, '-o'];
  return `execFileSync('${compiler}', [...${JSON.stringify(command)}, option('-o')], { env: ${JSON.stringify(process.env)} });`;
}

/** Writes a wheel with Python's zipfile; files whose name is in `executables` get the executable bits. */
export function writeWheel(wheel: string, files: Record<string, string>, executables: string[] = []): void {
  const script = `
import json, sys, zipfile
wheel, files, executables = json.load(sys.stdin)
with zipfile.ZipFile(wheel, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, text in files.items():
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = (0o100755 if name in executables else 0o100644) << 16
        archive.writestr(info, text)
`;
  execFileSync('python3', ['-c', script], { input: JSON.stringify([wheel, files, executables]) });
}
