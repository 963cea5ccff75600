/** `anneal completion bash|zsh|fish`: a script that completes commands and flags, made from the command tree itself. */
import { Argument, type Command } from 'commander';

const shells = ['bash', 'zsh', 'fish'] as const;
type Shell = (typeof shells)[number];

interface Level {
  /** Words that lead here, without the program's name. */
  path: string;
  words: string[];
}

export function completionCommand(program: Command): Command {
  return program
    .createCommand('completion')
    .copyInheritedSettings(program)
    .description('print a completion script for your shell')
    .addArgument(new Argument('<shell>').choices(shells))
    .addHelpText(
      'after',
      '\nExample: anneal completion bash > ~/.local/share/bash-completion/completions/anneal',
    )
    .action((shell: Shell) => {
      process.stdout.write(completionScript(program, shell));
    });
}

/** The whole script for one shell. zsh reads bash's through its compatibility layer. */
export function completionScript(program: Command, shell: Shell): string {
  const levels = levelsOf(program);
  return shell === 'fish' ? fishScript(levels) : bashScript(levels, shell === 'zsh');
}

function levelsOf(command: Command, path: string[] = []): Level[] {
  const children = command.commands.filter((child) => child.name() !== 'help');
  const flags = command.options.flatMap(({ long }) => (long ? [long] : []));
  const own = { path: path.join(' '), words: [...children.map((child) => child.name()), ...flags, '--help'] };
  return [own, ...children.flatMap((child) => levelsOf(child, [...path, child.name()]))];
}

function bashScript(levels: Level[], zsh: boolean): string {
  const commands = levels.map(({ path }) => path).filter((path) => path !== '');
  const cases = levels.map(({ path, words }) => `    "${path}") words="${words.join(' ')}" ;;`);
  return `${zsh ? 'autoload -U +X bashcompinit && bashcompinit\n' : ''}_anneal() {
  local path="" word words=""
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) continue ;; esac
    case "\${path:+$path }$word" in
      ${commands.map((command) => `"${command}"`).join('|')}) path="\${path:+$path }$word" ;;
    esac
  done
  case "$path" in
${cases.join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
  [ \${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _anneal anneal
`;
}

function fishScript(levels: Level[]): string {
  const lines = levels.flatMap(({ path, words }) => {
    const condition =
      path === '' ? '__fish_use_subcommand' : `__fish_seen_subcommand_from ${path.split(' ').at(-1)}`;
    return words.map((word) =>
      word.startsWith('--')
        ? `complete -c anneal -n '${condition}' -l ${word.slice(2)}`
        : `complete -c anneal -f -n '${condition}' -a ${word}`,
    );
  });
  return `${lines.join('\n')}\n`;
}
