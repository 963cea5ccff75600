import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = dirname(import.meta.dirname);

/** Who may depend on whom. An arrow that is missing here is a decision, not an oversight. */
const ALLOWED: Record<string, string[]> = {
  '@anneal/types': [],
  '@anneal/safetensors': [],
  '@anneal/tensorflow': [],
  '@anneal/tokenizer': [],
  '@anneal/client': ['@anneal/types', '@anneal/tokenizer'],
  '@anneal/store': ['@anneal/types'],
  '@anneal/hub': ['@anneal/safetensors'],
  '@anneal/engine': ['@anneal/types', '@anneal/tensorflow', '@anneal/safetensors', '@anneal/tokenizer'],
  '@anneal/console': ['@anneal/types'],
  '@anneal/docs': ['@anneal/engine', '@anneal/server', '@anneal/store'],
  '@anneal/server': [
    '@anneal/console',
    '@anneal/types',
    '@anneal/engine',
    '@anneal/store',
    '@anneal/hub',
    '@anneal/tokenizer',
    '@anneal/safetensors',
  ],
};

/** Their build holds all that they import, so that nothing is installed with them. */
const BUNDLED = ['@anneal/console'];

interface Package {
  name: string;
  folder: string;
  dependencies: Set<string>;
  developmentDependencies: Set<string>;
  /** What others may import: its name, and its name with a subpath that `exports` lists. */
  entryPoints: string[];
}

const packages = globSync(['packages/*/package.json', 'apps/*/package.json'], { cwd: ROOT }).map(readPackage);
const ours = new Set(packages.map(({ name }) => name));

function readPackage(path: string): Package {
  const manifest: {
    name: string;
    exports?: object;
    dependencies?: object;
    peerDependencies?: object;
    devDependencies?: object;
  } = JSON.parse(readFileSync(join(ROOT, path), 'utf8'));
  return {
    name: manifest.name,
    folder: dirname(path),
    dependencies: new Set(Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })),
    developmentDependencies: new Set(Object.keys(manifest.devDependencies ?? {})),
    entryPoints: Object.keys(manifest.exports ?? {}).map((subpath) => manifest.name + subpath.slice(1)),
  };
}

/** Import specifiers of a TypeScript file that name a package, without `node:` ones. */
function importedPackages(path: string): string[] {
  const source = readFileSync(join(ROOT, path), 'utf8');
  const specifiers = source.matchAll(
    /^(?:(?:import|export)\b[^;]*?\bfrom|import)\s+'([^'.][^']*)'|\bimport\(\s*'([^'.][^']*)'\s*\)/gm,
  );
  return [...specifiers]
    .map((match) => match[1] ?? match[2] ?? '')
    .filter((name) => !name.startsWith('node:'));
}

function packageOf(specifier: string): string {
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
}

function sources({ folder }: Package, kind: 'code' | 'tests'): string[] {
  const files = globSync([`${folder}/src/**/*.{ts,tsx}`, `${folder}/test/**/*.ts`], { cwd: ROOT });
  const isTest = (file: string) => /\.test\.tsx?$/.test(file) || file.startsWith(`${folder}/test/`);
  return files.filter((file) => isTest(file) === (kind === 'tests'));
}

test('every package of the repository is found', () => {
  expect(packages.length).toBeGreaterThanOrEqual(Object.keys(ALLOWED).length);
});

test.each(packages)('$name depends only on packages below it', ({ name, dependencies }) => {
  const allowed = ALLOWED[name];
  if (!allowed) return expect(dependencies).not.toContain(name);
  expect(allowed).toEqual(
    expect.arrayContaining([...dependencies].filter((dependency) => ours.has(dependency))),
  );
});

test.each(packages)('$name declares what it imports', (entry) => {
  const bundled = BUNDLED.includes(entry.name) ? entry.developmentDependencies : [];
  const declared = new Set([...entry.dependencies, ...bundled]);
  const undeclared = sources(entry, 'code').flatMap((file) =>
    importedPackages(file)
      .filter((specifier) => !declared.has(packageOf(specifier)))
      .map((specifier) => `${file} imports ${specifier}`),
  );
  expect(undeclared).toEqual([]);
});

test.each(packages)(
  'the tests of $name import only what is installed for it or for the repository',
  (entry) => {
    const root = readPackage('package.json');
    const known = new Set([
      ...entry.dependencies,
      ...entry.developmentDependencies,
      ...root.developmentDependencies,
      entry.name,
    ]);
    const undeclared = sources(entry, 'tests').flatMap((file) =>
      importedPackages(file)
        .filter((specifier) => !known.has(packageOf(specifier)))
        .map((specifier) => `${file} imports ${specifier}`),
    );
    expect(undeclared).toEqual([]);
  },
);

test('no package reaches into another one past its entry points', () => {
  const entryPoints = new Set(packages.flatMap((entry) => entry.entryPoints));
  const deep = packages.flatMap((entry) =>
    [...sources(entry, 'code'), ...sources(entry, 'tests')].flatMap((file) =>
      importedPackages(file)
        .filter((specifier) => ours.has(packageOf(specifier)) && !entryPoints.has(specifier))
        .map((specifier) => `${file} imports ${specifier}`),
    ),
  );
  expect(deep).toEqual([]);
});

test('packages form no cycle', () => {
  const edges = new Map(
    packages.map(({ name, dependencies }) => [name, [...dependencies].filter((d) => ours.has(d))]),
  );
  const finished = new Set<string>();
  const visit = (name: string, path: string[]): void => {
    if (path.includes(name)) throw new Error(`cycle: ${[...path, name].join(' → ')}`);
    if (finished.has(name)) return;
    for (const next of edges.get(name) ?? []) visit(next, [...path, name]);
    finished.add(name);
  };
  expect(() => {
    for (const name of edges.keys()) visit(name, []);
  }).not.toThrow();
});

test('in the server, nothing but what builds the application knows the routes', () => {
  const server = join(ROOT, 'apps/server/src');
  const below = globSync('*/**/*.ts', { cwd: server }).filter((file) => !file.startsWith('routes/'));
  const reaching = below.filter((file) =>
    /from '(\.\.\/)+routes\//.test(readFileSync(join(server, file), 'utf8')),
  );
  expect(below.length).toBeGreaterThan(30);
  expect(reaching).toEqual([]);
});

test('every package has sources and a README', () => {
  const incomplete = packages.filter(
    ({ folder }) => !existsSync(join(ROOT, folder, 'README.md')) || !existsSync(join(ROOT, folder, 'src')),
  );
  expect(incomplete.map(({ name }) => name)).toEqual([]);
});
