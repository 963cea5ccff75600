/** Holds what is in deploy/ to the settings and files that it names. No container engine is needed. */
import { spawnSync } from 'node:child_process';
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { DockerfileParser } from 'dockerfile-ast';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import * as z from 'zod';
import { ServeConfig } from '../packages/cli/src/config/serve-config.ts';
import { settingsOf } from '../packages/cli/src/config/settings.ts';

const ROOT = dirname(import.meta.dirname);
const DEPLOY = join(ROOT, 'deploy');
const read = (path: string): string => readFileSync(join(DEPLOY, path), 'utf8');

const settings = settingsOf(ServeConfig);
/** Ours besides the settings: where TensorFlow and models are kept. */
const KNOWN = new Set([...settings.map(({ env }) => env), 'ANNEAL_CACHE_DIR']);
const unknown = (names: string[]) => names.filter((name) => name.startsWith('ANNEAL_') && !KNOWN.has(name));

const dockerfile = DockerfileParser.parse(read('Dockerfile'));
const environment = new Map(
  dockerfile
    .getENVs()
    .flatMap((env) => env.getProperties().map((property) => [property.getName(), property.getValue()])),
);
const argumentsOf = (keyword: string): string[] =>
  dockerfile
    .getInstructions()
    .filter((instruction) => instruction.getKeyword() === keyword)
    .map((instruction) => instruction.getArgumentsContent() ?? '');

const Service = z.object({
  image: z.string().optional(),
  build: z.object({ context: z.string(), dockerfile: z.string(), target: z.string() }).optional(),
  environment: z.record(z.string(), z.string()).default({}),
  ports: z.array(z.string()).default([]),
  volumes: z.array(z.string()).default([]),
  secrets: z.array(z.string()).default([]),
  depends_on: z.union([z.array(z.string()), z.record(z.string(), z.unknown())]).default([]),
});
const Compose = z.object({
  services: z.record(z.string(), Service),
  volumes: z.record(z.string(), z.unknown()),
  secrets: z.record(z.string(), z.object({ environment: z.string() })),
});
const compose = Compose.parse(parse(read('compose.yaml')));

test('the linter finds nothing in the Dockerfile but what it does not know', () => {
  const lint = join(ROOT, 'node_modules', '.bin', 'dockerfilelint');
  const { stdout } = spawnSync(lint, ['-o', 'json', join(DEPLOY, 'Dockerfile')], { encoding: 'utf8' });
  const issues: { content: string; title: string }[] = JSON.parse(stdout).files[0].issues;
  // It takes a stage's name for an image, and knows no --start-period.
  const stages = dockerfile.getFROMs().map((from) => from.getBuildStage());
  const real = issues.filter(
    ({ content }) =>
      !stages.some((stage) => content.startsWith(`FROM ${stage} `)) && !content.includes('--start-period'),
  );
  expect(issues.length).toBeGreaterThan(0);
  expect(real).toEqual([]);
});

test('the image is built in stages from files that exist, and runs without root', () => {
  const stages = dockerfile.getFROMs().map((from) => from.getBuildStage());
  expect(stages).toEqual(['build', 'base', 'cuda', 'cpu']);
  for (const copy of dockerfile.getCOPYs()) {
    const stage = copy.getFromFlag()?.getValue();
    const sources = copy
      .getArguments()
      .slice(0, -1)
      .map((argument) => argument.getValue());
    if (stage != null) expect(stages).toContain(stage);
    else for (const source of sources) expect(existsSync(join(ROOT, source)), source).toBe(true);
  }
  expect(argumentsOf('USER')).toEqual(['anneal']);
});

test('port, volumes, health check and variables of the image are those of the settings', () => {
  expect(unknown([...environment.keys()].map(String))).toEqual([]);
  const port = String(settings.find(({ key }) => key === 'port')?.default);
  expect(environment.get('ANNEAL_PORT')).toBe(port);
  expect(argumentsOf('EXPOSE')).toEqual([port]);
  const volumes: string[] = JSON.parse(argumentsOf('VOLUME')[0] ?? '[]');
  expect(volumes).toEqual([environment.get('ANNEAL_DATA_DIR'), environment.get('ANNEAL_CACHE_DIR')]);
  expect(argumentsOf('HEALTHCHECK')[0]).toContain(`http://127.0.0.1:${port}/api/v1/healthz`);
  const [entry = ''] = argumentsOf('ENTRYPOINT');
  const { bin } = JSON.parse(readFileSync(join(ROOT, 'packages/cli/package.json'), 'utf8'));
  expect(JSON.parse(entry)).toEqual(['node', join('packages/cli', bin.anneal)]);
});

test('each service of the compose file names what exists', () => {
  const { services, volumes, secrets } = compose;
  for (const [name, service] of Object.entries(services)) {
    expect(service.image !== undefined || service.build !== undefined, name).toBe(true);
    expect(unknown(Object.keys(service.environment))).toEqual([]);
    const dependencies = Array.isArray(service.depends_on)
      ? service.depends_on
      : Object.keys(service.depends_on);
    for (const dependency of dependencies) expect(services).toHaveProperty([dependency]);
    for (const secret of service.secrets) expect(secrets).toHaveProperty([secret]);
    for (const [source = ''] of service.volumes.map((volume) => volume.split(':'))) {
      if (source.startsWith('.')) expect(existsSync(join(DEPLOY, source)), source).toBe(true);
      else expect(volumes).toHaveProperty([source]);
    }
  }
  const { anneal } = services;
  expect(existsSync(join(DEPLOY, anneal?.build?.context ?? '', anneal?.build?.dockerfile ?? ''))).toBe(true);
  expect(dockerfile.getFROMs().map((from) => from.getBuildStage())).toContain(anneal?.build?.target);
  expect(anneal?.ports).toEqual([`127.0.0.1:8123:${environment.get('ANNEAL_PORT')}`]);
  expect(anneal?.volumes.map((volume) => volume.split(':')[1])).toEqual(['/data', '/cache']);
});

test('each variable that the compose file requires is in the example', () => {
  const required = [...read('compose.yaml').matchAll(/\$\{(\w+):\?/g)].map(([, name]) => name);
  const given = [...read('example.env').matchAll(/^(\w+)=/gm)].map(([, name]) => name);
  expect(new Set(given)).toEqual(new Set(required));
});

test('Prometheus finds the server, with the key that it is given', () => {
  const [job] = parse(read('prometheus/prometheus.yml')).scrape_configs;
  expect(job.metrics_path).toBe('/metrics');
  expect(job.static_configs[0].targets).toEqual([`anneal:${environment.get('ANNEAL_PORT')}`]);
  const secret = String(job.authorization.credentials_file).replace('/run/secrets/', '');
  expect(compose.services.prometheus?.secrets).toContain(secret);
  expect(compose.secrets[secret]?.environment).toBe('ANNEAL_METRICS_KEY');
});

test('Grafana finds Prometheus and the dashboard', () => {
  const [source] = parse(read('grafana/provisioning/datasources/prometheus.yaml')).datasources;
  const [provider] = parse(read('grafana/provisioning/dashboards/anneal.yaml')).providers;
  expect(new URL(source.url).hostname).toBe('prometheus');
  expect(compose.services.grafana?.volumes).toContain(`./grafana/dashboards:${provider.options.path}:ro`);
  const dashboard = JSON.parse(read('grafana/dashboards/anneal.json'));
  const used = new Set(JSON.stringify(dashboard).match(/"uid":"[^"]+"/g));
  expect(used).toEqual(new Set([`"uid":"${source.uid}"`, `"uid":"${dashboard.uid}"`]));
});

test('systemd accepts the unit, which names settings that exist', ({ skip }) => {
  const unit = read('systemd/anneal.service');
  expect(unknown([...unit.matchAll(/^Environment=(\w+)/gm)].map(([, name]) => String(name)))).toEqual([]);
  if (spawnSync('systemd-analyze', ['--version']).status !== 0) skip('there is no systemd-analyze here');
  const folder = mkdtempSync(join(tmpdir(), 'anneal-unit-'));
  try {
    // It looks for the program, which is not installed here.
    const file = join(folder, 'anneal.service');
    writeFileSync(file, unit.replace('/usr/bin/node', process.execPath));
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', file], { encoding: 'utf8' });
    expect([status, stderr.split('\n').filter((line) => line.includes('anneal'))]).toEqual([0, []]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('every YAML file of the folder parses', () => {
  const files = globSync('**/*.{yaml,yml}', { cwd: DEPLOY });
  expect(files.length).toBeGreaterThan(3);
  for (const file of files) expect(parse(read(file)), file).toEqual(expect.any(Object));
});
