import type { Setting } from './settings.ts';

/** The table of docs/configuration.md: one row per setting, in the schema's order. */
export function configurationTable(settings: Setting[]): string {
  const rows = settings.map((setting) => {
    const names = [
      `\`${setting.flag}\``,
      `\`${setting.env}\``,
      setting.commonEnv && `\`${setting.commonEnv}\``,
    ];
    const cells = [
      `\`${setting.key}\``,
      names.filter(Boolean).join('<br>'),
      shownDefault(setting),
      setting.allowed ?? '',
      setting.description,
    ];
    return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  });
  const head = [
    '| key | flag, variable | default | allowed | what it does |',
    '| --- | --- | --- | --- | --- |',
  ];
  return [...head, ...rows].join('\n');
}

function shownDefault({ default: value }: Setting): string {
  if (value === undefined || value === '') return '';
  const empty = typeof value === 'object' && value !== null && Object.keys(value).length === 0;
  return empty ? '' : `\`${Array.isArray(value) ? value.join(', ') : String(value)}\``;
}
