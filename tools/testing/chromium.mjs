/** The browser for tests: one that is installed, or Debian's, which is installed where that is possible. */
import { spawnSync } from 'node:child_process';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome'];

function pathOf(name) {
  const result = spawnSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' });
  return result.status === 0 ? result.stdout.trim() : undefined;
}

function find() {
  if (process.env.ANNEAL_CHROMIUM) return process.env.ANNEAL_CHROMIUM;
  return NAMES.map(pathOf).find((path) => path !== undefined);
}

function install(say) {
  if (process.getuid?.() !== 0 || pathOf('apt-get') === undefined) return;
  say('installing chromium with apt-get (once)');
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const apt = (...args) => spawnSync('apt-get', args, { env, stdio: ['ignore', 'ignore', 'inherit'] });
  apt('update');
  apt('install', '--yes', '--no-install-recommends', 'chromium', 'fonts-dejavu-core');
}

/** Path of a Chromium, or undefined where there is none and none can be installed. ANNEAL_CHROMIUM overrides. */
export function ensureChromium(say) {
  const found = find();
  if (found !== undefined) return found;
  install(say);
  return find();
}
