"""``sfss completion``: scripts that have a shell complete commands and options, made from the
parser.
"""

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sfss.command_parsers import NewParser


@dataclass(frozen=True, slots=True)
class Option:
    """An option: its names, what it is for, and the values it takes: None where it takes none."""

    names: tuple[str, ...]
    help: str
    values: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what it is for, its options, and what may stand without one, if it is a choice."""

    help: str
    options: tuple[Option, ...]
    words: tuple[str, ...] = ()


def add_completion(new: NewParser) -> None:
    """Make the parser of the command."""
    parser = new(
        epilog='bash: eval "$(sfss completion bash)" in ~/.bashrc; zsh: sfss completion zsh >'
        " ~/.zfunc/_sfss, with that folder in fpath; fish: sfss completion fish >"
        " ~/.config/fish/completions/sfss.fish.",
    )
    parser.add_argument("shell", choices=tuple(_SHELLS))


def completion_script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the script for ``shell``."""
    return _SHELLS[shell](commands_of(parser))


def commands_of(parser: argparse.ArgumentParser) -> dict[str, Command]:
    """Return all commands of ``parser`` by name; under "" the options that stand before them."""
    found = {"": Command("", _options_of(parser))}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                found[name] = Command(helps.get(name, ""), _options_of(command), _words_of(command))
    return found


def _options_of(parser: argparse.ArgumentParser) -> tuple[Option, ...]:
    return tuple(
        Option(
            tuple(action.option_strings),
            _help(action),
            None if action.nargs == 0 else tuple(map(str, action.choices or ())),
        )
        for action in parser._actions
        if action.option_strings and action.help != argparse.SUPPRESS
    )


def _words_of(parser: argparse.ArgumentParser) -> tuple[str, ...]:
    for action in parser._actions:
        if not action.option_strings and action.choices:
            return tuple(map(str, action.choices))
    return ()


def _help(action: argparse.Action) -> str:
    text = re.sub(r" \(default: .*", "", action.help or "")
    return re.sub(r"%.", "", text)


_BASH: Final = """\
# Completion of sfss for bash: eval "$(sfss completion bash)"
_sfss() {
    local word="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"
    local command="" words="" index
    for ((index = 1; index < COMP_CWORD; index++)); do
        case "${COMP_WORDS[index]}" in
            @NAMES@) command="${COMP_WORDS[index]}"; break ;;
        esac
    done
    COMPREPLY=()
    case "$command $previous" in
@VALUES@
    esac
    case "$command" in
@WORDS@
    esac
    if [[ "$word" == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
    elif [[ -z "$command" ]]; then
        mapfile -t COMPREPLY < <(compgen -W "@LIST@" -- "$word")
    else
        case "$command" in
@CHOICES@
            *) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
        esac
    fi
}
complete -F _sfss sfss
"""


def _bash(commands: Mapping[str, Command]) -> str:
    names = [name for name in commands if name]
    values, words, choices = [], [], []
    for name, command in commands.items():
        flags = " ".join(flag for option in command.options for flag in option.names)
        words.append(f'        "{name}") words="{flags}" ;;')
        for option in command.options:
            if option.values is None:
                continue
            cases = "|".join(f'"{name} {flag}"' for flag in option.names)
            listed = f'compgen -W "{" ".join(option.values)}"' if option.values else "compgen -f"
            values.append(
                f'        {cases}) mapfile -t COMPREPLY < <({listed} -- "$word"); return ;;'
            )
        if command.words:
            listed = f'compgen -W "{" ".join(command.words)}" -- "$word"'
            choices.append(f'            "{name}") mapfile -t COMPREPLY < <({listed}) ;;')
    return _filled(
        _BASH,
        NAMES="|".join(names),
        LIST=" ".join(names),
        VALUES="\n".join(values),
        WORDS="\n".join(words),
        CHOICES="\n".join(choices),
    )


_ZSH: Final = """\
#compdef sfss
# Completion of sfss for zsh: sfss completion zsh > a folder of fpath/_sfss
_sfss() {
    local -a commands
    commands=(
@LIST@
    )
    local context state line
    _arguments -C @OPTIONS@ '1:command:->command' '*::argument:->arguments'
    case $state in
        command) _describe command commands ;;
        arguments)
            case $line[1] in
@CASES@
            esac ;;
    esac
}
if [ "$funcstack[1]" = "_sfss" ]; then _sfss "$@"; else compdef _sfss sfss; fi
"""


def _zsh(commands: Mapping[str, Command]) -> str:
    listed = [
        f"        {_quoted(f'{name}:{command.help}')}" for name, command in commands.items() if name
    ]
    cases = []
    for name, command in commands.items():
        if name:
            last = (
                f"'*:argument:({' '.join(command.words)})'" if command.words else "'*:file:_files'"
            )
            cases.append(f"                {name}) _arguments {_zsh_options(command)} {last} ;;")
    return _filled(
        _ZSH,
        LIST="\n".join(listed),
        OPTIONS=_zsh_options(commands[""]),
        CASES="\n".join(cases),
    )


def _zsh_options(command: Command) -> str:
    found = []
    for option in command.options:
        help = re.sub(r"[\[\]:\\]", lambda match: f"\\{match[0]}", option.help)
        value = ""
        if option.values is not None:
            value = f":value:({' '.join(option.values)})" if option.values else ":value:_files"
        found += [_quoted(f"{flag}[{help}]{value}") for flag in option.names]
    return " ".join(found)


def _fish(commands: Mapping[str, Command]) -> str:
    lines = [
        "# Completion of sfss for fish: ~/.config/fish/completions/sfss.fish",
        "complete -c sfss -e",
    ]
    for name, command in commands.items():
        condition = f"__fish_seen_subcommand_from {name}" if name else "__fish_use_subcommand"
        if name:
            shown = f"-a {name} -d {_quoted(command.help)}"
            lines.append(f"complete -c sfss -f -n __fish_use_subcommand {shown}")
        for option in command.options:
            lines.append(f"complete -c sfss -n {_quoted(condition)}{_fish_option(option)}")
        if command.words:
            words = _quoted(" ".join(command.words))
            lines.append(f"complete -c sfss -f -n {_quoted(condition)} -a {words}")
    return "\n".join([*lines, ""])


def _fish_option(option: Option) -> str:
    found = ""
    for flag in option.names:
        found += f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}"
    if option.values is not None:
        found += f" -x -a {_quoted(' '.join(option.values))}" if option.values else " -r"
    return f"{found} -d {_quoted(option.help)}"


def _quoted(text: str) -> str:
    """Return ``text`` as one word of a shell, in single quotes; a quote in it becomes another."""
    return "'" + text.replace("'", "\u2019") + "'"


def _filled(template: str, **texts: str) -> str:
    for name, text in texts.items():
        template = template.replace(f"@{name}@", text)
    return template


_SHELLS: Final[Mapping[str, Callable[[Mapping[str, Command]], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
