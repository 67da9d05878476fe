#!/usr/bin/env python3
"""Writes the manual pages of luod's programs and of luod.toml into a folder: `scripts/man_pages.py FOLDER`.

The pages of the programs are made from their parsers, as the reference of the site is; that of luod.toml is made from
docs/policy.md.
It needs what the programs need, and no tool of the site.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from luod.version import __version__  # noqa: E402 - after the path of the checkout

SITE: Final = "https://luod.io"
_FONTS: Final = re.compile(r"`([^`]*)`|\*\*([^*]*)\*\*|\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True)
class Page:
    """What the parser of a program does not have: its section, a line for `apropos`, files, and pages to see."""

    section: int
    summary: str
    files: tuple[tuple[str, str], ...]
    see: tuple[str, ...]


PAGES: Final = {
    "luod": Page(
        8,
        "hold live-update sessions and update the kernel with them",
        (
            ("/etc/luod/luod.toml", "the policy, see luod.toml(5)"),
            ("/run/luod/luod.sock", "the socket for programs; its protocol is Varlink"),
            ("/run/luod/admin.sock", "the socket of root, for luoctl(1)"),
            ("/var/lib/luod", "the registry of sessions and the timeline of the last update"),
            ("/dev/liveupdate", "the kernel's device; luod has it open only during a request"),
        ),
        ("luoctl(1)", "luod.toml(5)", "kexec(8)"),
    ),
    "luoctl": Page(
        1,
        "control luod: list sessions, update the kernel",
        (("/run/luod/admin.sock", "the socket of root"), ("/run/luod/luod.sock", "the socket for programs")),
        ("luod(8)", "luod.toml(5)", "varlinkctl(1)"),
    ),
    "luoemu": Page(
        1,
        "run a command in an emulated machine whose kernel has live update",
        (),
        ("luod(8)", "user_namespaces(7)", "seccomp_unotify(2)"),
    ),
    "luod-fleet": Page(
        1,
        "rehearse a roll-out of Ansible on emulated hosts",
        (),
        ("luoctl(1)", "luoemu(1)", "ansible-playbook(1)"),
    ),
}


def text(words: str) -> str:
    """Returns Markdown's inline text as roff: code and strong text are bold, links are their text."""

    def font(match: re.Match[str]) -> str:
        code, strong, link = match.groups()
        return text(link) if link is not None else f"\\fB{_escaped(code if code is not None else strong)}\\fP"

    parts, end = [], 0
    for match in _FONTS.finditer(words):
        parts += [_escaped(words[end : match.start()]), font(match)]
        end = match.end()
    return "".join([*parts, _escaped(words[end:])])


_CHARACTERS: Final = str.maketrans(
    {"\\": r"\e", "-": r"\-", "…": "...", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti", "`": r"\(ga"}
)


def _escaped(words: str) -> str:
    return re.sub(r"(?m)^(?=\.)", r"\\&", words.translate(_CHARACTERS))


def program(name: str, parser: argparse.ArgumentParser) -> str:
    """Returns the manual page of a program."""
    page = PAGES[name]
    lines = [*_head(name, page.section, page.summary), ".SH SYNOPSIS", *_usage(parser)]
    lines += [".SH DESCRIPTION", text(parser.description or "")]
    if options := list(_options(parser)):
        lines += [".SH OPTIONS", *options]
    everywhere = frozenset(option for action in parser._actions for option in action.option_strings)
    if commands := list(_commands(name, parser, everywhere)):
        lines += [".SH COMMANDS", *commands]
    if parser.epilog:
        lines += _epilog(parser.epilog, ".SH NOTES")
    if page.files:
        lines.append(".SH FILES")
        for path, meaning in page.files:
            lines += [".TP", f"\\fI{_escaped(path)}\\fP", text(meaning)]
    return _page([*lines, *_foot(page.see)])


def _commands(name: str, parser: argparse.ArgumentParser, everywhere: frozenset[str]) -> Iterator[str]:
    """Returns the sections of the verbs of `parser`, and of what they can do."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            shown = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for verb in shown:
                command = action.choices[verb]
                yield f".SS {text(f'{name} {verb}')}"
                yield from _usage(command, everywhere)
                yield ".PP"
                yield text(command.description or f"{shown[verb][:1].upper()}{shown[verb][1:]}.")
                yield from _options(command, everywhere)
                if command.epilog:
                    yield from _epilog(command.epilog, ".PP")
                yield from _commands(f"{name} {verb}", command, everywhere)


def _head(name: str, section: int, summary: str) -> list[str]:
    return [
        f'.TH {name.upper()} {section} "" "luod {__version__}" "luod"',
        ".SH NAME",
        f"{_escaped(name)} \\- {_escaped(summary)}",
    ]


def _foot(see: Iterable[str]) -> list[str]:
    pages = ",\n".join(f".BR {page[: page.index('(')]} {page[page.index('(') :]}" for page in see)
    return [".SH SEE ALSO", *re.sub(r"\)(,)\n", r") ,\n", pages).split("\n"), ".PP", f"{_escaped(SITE)}"]


def _page(lines: Iterable[str]) -> str:
    return '.\\" Generated by scripts/man_pages.py; do not edit.\n' + "\n".join(line for line in lines if line) + "\n"


def usage_lines(parser: argparse.ArgumentParser, but: Iterable[str], width: int) -> list[str]:
    """Returns a command's usage, without the options in `but`, as lines in which no option is broken."""
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    for option in but:
        usage = re.sub(rf" \[{option}(?: [A-Z]+)?\]", "", usage)
    whole = re.sub(r"\[[^\]]*\]", lambda option: option[0].replace(" ", "\0"), usage)
    lines = textwrap.wrap(whole, width, subsequent_indent=" " * 4, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def _usage(parser: argparse.ArgumentParser, but: Iterable[str] = ()) -> Iterator[str]:
    yield from (".nf", *map(text, usage_lines(parser, but, 76)), ".fi")


def _options(parser: argparse.ArgumentParser, but: frozenset[str] = frozenset()) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        if but.intersection(action.option_strings):
            continue
        value = f" {_value(action)}" if action.option_strings and action.nargs != 0 else ""
        names = ", ".join(f"\\fB{_escaped(option)}\\fP{value}" for option in action.option_strings)
        yield ".TP"
        yield names or _value(action)
        yield text((action.help or "") % {**vars(action), "prog": parser.prog})


def _value(action: argparse.Action) -> str:
    if action.choices and not action.metavar:
        return "|".join(text(f"`{choice}`") for choice in action.choices)
    return f"\\fI{_escaped(str(action.metavar or action.dest.upper()))}\\fP"


def _epilog(epilog: str, heading: str) -> Iterator[str]:
    """Yields an epilog. A part `exit status:` of indented lines becomes a list."""
    for part in epilog.strip().split("\n\n"):
        first, *rest = part.split("\n")
        if first.rstrip().endswith("status:") and rest:
            yield heading if heading == ".PP" else ".SH EXIT STATUS"
            if heading == ".PP":
                yield "Exit status:"
            for line in rest:
                status, _, meaning = line.strip().partition(" ")
                yield from (
                    (".TP", f"\\fB{_escaped(status)}\\fP", text(meaning.strip()))
                    if re.fullmatch(r"\d+", status)
                    else (".TP", "\\fI" + "N" + "\\fP", text(line.strip()))
                )
        elif heading == ".SH NOTES" and re.match(r"exit status: ", first):
            yield ".SH EXIT STATUS"
            yield text(" ".join(part.split()).removeprefix("exit status: "))
        else:
            yield heading
            yield text(" ".join(part.split()))


def policy() -> str:
    """Returns luod.toml(5), which is docs/policy.md."""
    lines = _head("luod.toml", 5, "policy of luod: users, sessions and hooks")
    body = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8").partition("\n")[2]
    lines += [".SH SYNOPSIS", "\\fI/etc/luod/luod.toml\\fP", ".SH DESCRIPTION", *_markdown(body)]
    return _page([*lines, *_foot(("luod(8)", "luoctl(1)"))])


def _markdown(body: str) -> Iterator[str]:
    """Yields Markdown as roff. The rows of a table become a list: the first cell is the term, the last its meaning."""
    for block in re.findall(r"(?m)^```[^`]*^```$|(?:^.+$\n?)+", body):
        block = block.strip("\n")
        if block.startswith("```"):
            yield from (".PP", ".RS 4", ".nf")
            yield from (_escaped(line) or "\\&" for line in block.split("\n")[1:-1])
            yield from (".fi", ".RE")
        elif block.startswith("    "):
            yield from (".PP", ".RS 4", _escaped(block.strip()), ".RE")
        elif block.startswith("#"):
            yield f".SH {_escaped(block.lstrip('# ').upper())}"
        elif block.startswith("|"):
            for row in block.split("\n")[2:]:
                term, *middle, meaning = (cell.strip() for cell in row.strip("|").split(" | "))
                yield from (".TP", text(term) + (f" ({text(', '.join(middle))})" if middle else ""), text(meaning))
        else:
            yield from (".PP", text(" ".join(block.split())))


def pages() -> dict[str, str]:
    """Returns the pages by file name."""
    from luod.ctl.parser import parser as luoctl
    from luod.daemon.command_line import parser as luod
    from luod.emulator.machine.main import parser as luoemu
    from luod.fleet.main import parser as fleet

    made = {
        f"{name}.{PAGES[name].section}": program(name, parser())
        for name, parser in (("luod", luod), ("luoctl", luoctl), ("luoemu", luoemu), ("luod-fleet", fleet))
    }
    return made | {"luod.toml.5": policy()}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages().items():
        (folder / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
