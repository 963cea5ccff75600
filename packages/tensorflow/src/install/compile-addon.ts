/** Compiles the addon against TensorFlow's libraries, and checks that it loads. */
import path from 'node:path';
import type { AddonSources } from './addon-sources.ts';
import { diskFull } from './cache-dir.ts';
import { TensorflowSetupError } from './errors.ts';
import { lastLines, runCommand } from './run-command.ts';

/** Node-API 8 is in every Node.js that we support, so an addon outlives Node.js upgrades. */
export const COMPILER_FLAGS = [
  '-O2',
  '-std=c++17',
  '-fPIC',
  '-shared',
  '-pthread',
  '-Werror=return-type',
  '-DNAPI_VERSION=8',
];

const OWN_SOURCES = [
  'adamw.cc',
  'anneal_extension.cc',
  'cached_attention.cc',
  'cached_attention_op.cc',
  'fused_head.cc',
  'fused_layers.cc',
  'gather_rows.cc',
  'heap.cc',
  'helpers.cc',
  'low_rank.cc',
  'skinny_matmul.cc',
  'skinny_matmul_op.cc',
  'training_head.cc',
  'training_layer.cc',
];

/** The C++ compiler: `$CXX`, else the usual names. */
export async function findCompiler(env: NodeJS.ProcessEnv): Promise<string> {
  for (const compiler of [env.CXX, 'g++', 'c++', 'clang++']) {
    if (!compiler) continue;
    const { exitCode } = await runCommand([compiler, '--version'], { env, timeoutMs: 60_000 });
    if (exitCode === 0) return compiler;
  }
  throw new TensorflowSetupError(
    'compiler_missing',
    'A C++ compiler was not found; it builds the link between Node.js and TensorFlow.',
    'Install g++ (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++) and start again.',
  );
}

export interface AddonCompilation {
  compiler: string;
  sources: AddonSources;
  /** The unpacked `tensorflow/` folder. */
  tensorflow: string;
  /** Where the finished addon looks for the libraries; `$ORIGIN` is its own folder. */
  runPath: string;
  output: string;
  env: NodeJS.ProcessEnv;
}

export async function compileAddon(compilation: AddonCompilation): Promise<void> {
  const { compiler, sources, tensorflow, runPath, output, env } = compilation;
  const command = [
    ...[compiler, ...COMPILER_FLAGS],
    ...[sources.nodeHeaders, path.join(tensorflow, 'include'), sources.binding].map(
      (folder) => `-I${folder}`,
    ),
    path.join(sources.binding, 'tfjs_backend.cc'),
    ...OWN_SOURCES.map((file) => path.join(sources.native, file)),
    ...[
      '-o',
      output,
      `-L${tensorflow}`,
      '-l:libtensorflow_cc.so.2',
      '-l:libtensorflow_framework.so.2',
      '-ldl',
    ],
    `-Wl,-rpath,${runPath}`,
  ];
  const { exitCode, stdout, stderr } = await runCommand(command, { env });
  if (exitCode === 0) return;
  if (/no space left on device/i.test(stderr)) throw diskFull(path.dirname(output));
  const said = lastLines(stderr || stdout || 'it was killed, perhaps for lack of memory', 12);
  const remedy = 'It needs C++17 (g++ 9 or newer): update it, or name another one in CXX.';
  throw new TensorflowSetupError(
    'compile_failed',
    `${compiler} could not build the TensorFlow addon:\n${said}\n`,
    remedy,
  );
}

/** Loads the addon in a process of its own, because a broken library may take its process down. */
export async function verifyAddon(addon: string, env: NodeJS.ProcessEnv): Promise<void> {
  const script = 'process.dlopen({ exports: {} }, process.argv[1])';
  const { exitCode, stderr } = await runCommand([process.execPath, '-e', script, addon], {
    env,
    timeoutMs: 120_000,
  });
  if (exitCode === 0) return;
  const said =
    stderr.split('\n').find((line) => line.includes('Error:')) ??
    (lastLines(stderr, 5) || 'the process was killed');
  const remedy = 'A newer compiler or C library may be needed; set CXX to another compiler and start again.';
  throw new TensorflowSetupError(
    'addon_unloadable',
    `The TensorFlow addon was built but does not load: ${said}.`,
    remedy,
  );
}
