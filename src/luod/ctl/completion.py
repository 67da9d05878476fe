"""Makes completion scripts for shells from luoctl's parser. No I/O.

The metavar tells how a value is completed: FILE and PATH as files, NAME as a session from `luoctl list --names`, and
VERB as a verb.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from luod.arguments import Parser
from luod.frozen import frozen

_FILES: Final = ("FILE", "PATH")


@frozen
class Word:
    """An option or an argument. `kind` is file, session, words, or "" where the value cannot be completed."""

    options: tuple[str, ...]
    takes_value: bool
    kind: str
    words: tuple[str, ...]
    help: str


def _words(parser: Parser, verbs: Iterable[str]) -> Iterator[Word]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and action.metavar == "VERB":
            continue
        words = tuple(action.choices or (verbs if action.metavar == "VERB" else ()))
        kind = (
            "file" if action.metavar in _FILES else "session" if action.metavar == "NAME" else "words" if words else ""
        )
        takes_value = bool(action.option_strings) and action.nargs is None
        yield Word(tuple(action.option_strings), takes_value, kind, words, action.help or "")


def bash(program: Parser) -> str:
    """Returns the script for bash."""
    lines = [
        "# bash completion of luoctl, made by `luoctl completion bash`",
        "_luoctl() {",
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb='' i",
        "    COMPREPLY=()",
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        "        case ${COMP_WORDS[i]} in",
        f"            {'|'.join(_with_value(program))}) ((i++)) ;;",
        "            -*) ;;",
        "            *) verb=${COMP_WORDS[i]}; break ;;",
        "        esac",
        "    done",
        '    case "$verb $prev" in',
    ]
    for verb, parser in (("*", program), *program.verbs.items()):
        for word in _words(parser, program.verbs):
            if word.takes_value and not (verb != "*" and set(word.options) & set(program._option_string_actions)):
                pattern = "|".join(
                    f'{verb}" {option}"' if verb == "*" else f'"{verb} {option}"' for option in word.options
                )
                lines += [f"        {pattern}) {_bash_reply(word)}; return ;;"]
    lines += ["    esac", "    case $verb in", f"        '') {_bash_words((*program.verbs, *_options(program)))} ;;"]
    for verb, parser in program.verbs.items():
        positional = [word for word in _words(parser, program.verbs) if not word.options]
        other = f"{_bash_reply(positional[0])}" if positional else ":"
        lines += [
            f"        {verb}) if [[ $cur == -* ]]; then {_bash_words(_options(parser))}; else {other}; fi ;;",
        ]
    return "\n".join([*lines, "    esac", "}", "complete -F _luoctl luoctl", ""])


def _bash_reply(word: Word) -> str:
    match word.kind:
        case "file":
            return "compopt -o default; COMPREPLY=()"
        case "session":
            return 'COMPREPLY=($(compgen -W "$(luoctl list --names 2>/dev/null)" -- "$cur"))'
        case "words":
            return _bash_words(word.words)
        case _:
            return ":"


def _bash_words(words: Iterable[str]) -> str:
    return f"COMPREPLY=($(compgen -W '{' '.join(words)}' -- \"$cur\"))"


def zsh(program: Parser) -> str:
    """Returns the script for zsh."""
    lines = ["#compdef luoctl", "# zsh completion of luoctl, made by `luoctl completion zsh`", "_luoctl() {"]
    lines += ["    local state line", "    local -a verbs", "    verbs=("]
    helps = _summaries(program)
    lines += [f"        {_quoted(f'{verb}:{helps[verb]}')}" for verb in program.verbs]
    lines += ["    )", f"    _arguments -C {' '.join(_zsh(program, program))} '1:verb:->verb' '*::argument:->argument'"]
    lines += ["    case $state in", "        verb) _describe verb verbs ;;", "        argument) case $line[1] in"]
    for verb, parser in program.verbs.items():
        lines += [f"            {verb}) _arguments {' '.join(_zsh(parser, program))} ;;"]
    lines += ["        esac ;;", "    esac", "}"]
    lines += ['_luoctl_sessions() { compadd -- ${(f)"$(luoctl list --names 2>/dev/null)"} }']
    return "\n".join([*lines, "compdef _luoctl luoctl", ""])


def _zsh(parser: Parser, program: Parser) -> Iterator[str]:
    for word in _words(parser, program.verbs):
        what = {"file": "_files", "session": "_luoctl_sessions", "words": f"({' '.join(word.words)})"}.get(
            word.kind, " "
        )
        if not word.options:
            yield _quoted(f"*:{word.kind or 'argument'}:{what}")
        for option in word.options:
            help = word.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
            yield _quoted(f"*{option}[{help}]" + (f":value:{what}" if word.takes_value else ""))


def fish(program: Parser) -> str:
    """Returns the script for fish."""
    verbs = " ".join(program.verbs)
    lines = ["# fish completion of luoctl, made by `luoctl completion fish`", "complete -c luoctl -f"]
    helps = _summaries(program)
    unused = f"not __fish_seen_subcommand_from {verbs}"
    lines += [f"complete -c luoctl -n '{unused}' -a {verb} -d {_quoted(helps[verb])}" for verb in program.verbs]
    for verb, parser in (("", program), *program.verbs.items()):
        condition = f"__fish_seen_subcommand_from {verb}" if verb else unused
        for word in _words(parser, program.verbs):
            begin = f"complete -c luoctl -n '{condition}'"
            what = {"file": " -F", "session": " -a '(luoctl list --names 2>/dev/null)'"}.get(word.kind, "")
            what = f" -a {_quoted(' '.join(word.words))}" if word.kind == "words" else what
            names = "".join(f" -l {o[2:]}" if o.startswith("--") else f" -s {o[1:]}" for o in word.options)
            if names:
                lines += [begin + names + (f" -r{what}" if word.takes_value else "") + f" -d {_quoted(word.help)}"]
            elif what:
                lines += [begin + what]
    return "\n".join([*lines, ""])


def _options(parser: Parser) -> list[str]:
    return [option for option in parser._option_string_actions if option.startswith("--")]


def _with_value(program: Parser) -> list[str]:
    return [option for word in _words(program, ()) if word.takes_value for option in word.options]


def _summaries(program: Parser) -> dict[str, str]:
    (verbs,) = (action for action in program._actions if isinstance(action, argparse._SubParsersAction))
    return {choice.dest: choice.help or "" for choice in verbs._choices_actions}


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


SCRIPTS: Final[dict[str, Callable[[Parser], str]]] = {"bash": bash, "zsh": zsh, "fish": fish}
