"""A hook of MkDocs: generates the reference pages from the code, and the start page and the changelog from the root.

Pages under docs/ are written by hand; nothing that this module generates is in the repository. Links from a page to a
file outside docs/ become the file's name, after a look that the file is there.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from scripts.man_pages import usage_lines  # noqa: E402 - after the path of the checkout

_EXAMPLES = {ROOT / "examples/vmm.py": "example-python.md", ROOT / "examples/vmm.c": "example-c.md"}
"""Programs that the site shows as pages."""
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages."""
    for path, text in _pages():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replaces links that lead out of docs/, and gives links that show a page's file name the page's title."""
    return _LINK.sub(lambda link: _inside(link, page.file.src_uri), markdown)


def _inside(link: re.Match[str], page: str) -> str:
    text, target, anchor = link.group(1), link.group(2), link.group(3) or ""
    path = (ROOT / "docs" / page).parent.joinpath(target).resolve()
    if path.is_relative_to(ROOT / "docs") and path.is_file() and text in (target, f"docs/{target}"):
        return f"[{path.read_text().partition(chr(10))[0].removeprefix('# ')}]({target}{anchor})"
    if path.is_relative_to(ROOT / "docs") or not path.is_relative_to(ROOT):
        return link.group(0)
    if not path.exists():
        raise PluginError(f"{page}: there is no {target}")
    if path.name == "CHANGELOG.md":
        return f"[{text}](changelog.md{anchor})"
    if path in _EXAMPLES:
        return f"[{text}]({_EXAMPLES[path]})"
    return f"`{path.relative_to(ROOT)}`" if text in (target, path.name, f"`{path.name}`") else f"{text}"


def _pages() -> Iterator[tuple[str, str]]:
    # The pages of the repository's root, seen from docs/.
    yield (
        "index.md",
        re.sub(r"\]\(docs/", "](", (ROOT / "README.md").read_text())
        .replace("](CONTRIBUTING", "](../CONTRIBUTING")
        .replace("](CHANGELOG", "](../CHANGELOG"),
    )
    yield "changelog.md", (ROOT / "CHANGELOG.md").read_text()
    for example, page in _EXAMPLES.items():
        language = example.suffix.removeprefix(".").replace("py", "python")
        yield page, f"# {example.relative_to(ROOT)}\n\n```{language}\n{example.read_text().rstrip()}\n```\n"
    for name, parser in _programs():
        yield f"reference/{name}.md", _program(name, parser())
    yield "reference/varlink.md", _varlink()
    yield "reference/luod-toml.md", _policy()
    yield "reference/python.md", _python()


def _programs() -> Iterator[tuple[str, Callable[[], argparse.ArgumentParser]]]:
    from luod.ctl.parser import parser as luoctl
    from luod.daemon.command_line import parser as luod
    from luod.emulator.machine.main import parser as luoemu
    from luod.fleet.main import parser as fleet

    yield from (("luoctl", luoctl), ("luod", luod), ("luoemu", luoemu), ("luod-fleet", fleet))


def _program(name: str, parser: argparse.ArgumentParser) -> str:
    lines = [f"# {name}", "", parser.description or "", "", *_options(parser)]
    everywhere = {option for action in parser._actions for option in action.option_strings}
    lines += _commands(name, parser, everywhere)
    if parser.epilog:
        lines += ["## Notes", "", "```", parser.epilog.strip(), "```", ""]
    return "\n".join(lines)


def _commands(name: str, parser: argparse.ArgumentParser, everywhere: Collection[str]) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for verb, command in action.choices.items():
                if helps.get(verb) == argparse.SUPPRESS or verb not in helps:
                    continue
                yield from (f"## {name} {verb}", "", command.description or f"{_sentence(helps[verb])}", "")
                yield from ("```", *usage_lines(command, everywhere, 80), "```", "")
                yield from _options(command, but=everywhere)
                yield from _commands(f"{name} {verb}", command, everywhere)


def _sentence(text: str | None) -> str:
    return f"{(text or '')[:1].upper()}{(text or '')[1:]}."


def _options(parser: argparse.ArgumentParser, but: Collection[str] = ()) -> list[str]:
    """Returns a table of the options and arguments, without those in `but`, which every command takes."""
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        if set(action.option_strings) & set(but):
            continue
        names = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
        value = f" `{action.metavar or action.dest.upper()}`" if action.option_strings and action.nargs != 0 else ""
        shown = (action.help or "") % {**vars(action), "prog": parser.prog}
        rows.append(f"| {names}{value} | {shown.replace('|', chr(92) + '|')} |")
    return ["| option | meaning |", "|---|---|", *rows, ""] if rows else []


def _varlink() -> str:
    lines = [
        "# Varlink interfaces",
        "",
        "`varlinkctl introspect` shows the same. A parameter named `…_fd` is the index of an fd that",
        "is sent with the message.",
        "",
    ]
    for file in sorted((ROOT / "src/luod/ipc").rglob("*.varlink")):
        lines += [f"## {file.stem}", ""]
        for part in file.read_text().strip().split("\n\n"):
            prose = [line.removeprefix("#").strip() for line in part.splitlines() if line.startswith("#")]
            definitions = [line for line in part.splitlines() if not line.startswith("#")]
            for definition in definitions:
                if match := re.match(r"(?:method|error) (\w+)", definition):
                    lines += [f"### {match[1]}", ""]
            lines += [*(re.sub(r"([<>*_|])", r"\\\1", line) for line in prose), ""]
            if definitions and not definitions[0].startswith("interface"):
                lines += ["```", *(line for definition in definitions for line in _broken(definition)), "```", ""]
    return "\n".join(lines)


def _broken(definition: str) -> list[str]:
    """Returns the lines of a definition of Varlink: a long one has a line for each member of its outer parentheses."""
    if len(definition) <= 90:
        return [definition]
    lines, depth = [""], 0
    for character in definition:
        if character == ")" and depth == 1 and len(lines) > 1:
            lines.append("")
        lines[-1] += character
        depth += {"(": 1, ")": -1}.get(character, 0)
        if (character == "(" and depth == 1) or (character == "," and depth == 1):
            lines.append("    ")
    return [line if not line.startswith("     ") else f"    {line.strip()}" for line in lines]


def _policy() -> str:
    """Returns the reference of the policy: members and types from the code, meanings from the table of policy.md.

    Raises PluginError where that table lacks a member.
    """
    from luod.daemon.policy.rules import HookCommands, Rule, Settings, Terms
    from luod.frozen import member_types, members

    meanings: dict[str, str] = {}
    for names, meaning in re.findall(r"(?m)^\| (`[^|]*`) \| [^|]* \| (.*) \|$", (ROOT / "docs/policy.md").read_text()):
        meanings.update(dict.fromkeys(re.findall(r"`([^`]*)`", names), meaning))
    lines = ["# luod.toml", "", "[Write a policy](../policy.md) has an example and the rules for its use.", ""]
    sections = (
        ("Top level", Settings),
        ("[default]", Terms),
        ("[[rules]]", Rule),
        ("[hooks]", HookCommands),
    )
    for title, kind in sections:
        note = ["The members of `[default]`, and conditions:", ""] if kind is Rule else []
        lines += [f"## {title}", "", *note, "| member | type | meaning (default) |", "|---|---|---|"]
        for field, its_type in member_types(kind).items():
            name = field.replace("_", "-")
            if (kind is Rule and field in members(Terms)) or isinstance(getattr(kind, field), Terms | HookCommands):
                continue
            if kind is Settings and field == "rules":
                continue
            if name not in meanings:
                raise PluginError(f"policy.md has no row for {name}")
            lines.append(f"| `{name}` | {_toml_type(its_type)} | {meanings[name]} |")
        lines.append("")
    return "\n".join(lines)


def _toml_type(kind: Any) -> str:
    """Returns the name of a type in TOML's words."""
    from luod.static import Words

    names = {int: "integer", float: "number", bool: "boolean", str: "string", tuple: "array of strings"}
    parts = [part for part in get_args(kind) or (kind,) if part is not type(None)]
    if len(parts) == 1 and isinstance(kind, UnionType):
        return _toml_type(parts[0])
    if get_origin(kind) is tuple:
        return names[tuple]
    if issubclass(kind, Words):
        return " or ".join(f'`"{word}"`' for word in kind.words)
    return names[kind]


_IMPORTING = (
    "`import luod` loads a name's module when it is first used. A class `Async…` has the members of the class without"
    " that prefix, as coroutines where they may take long."
)


def _python() -> str:
    import luod

    homes: list[str] = []
    errors: list[str] = []
    for name in luod.__all__:
        if name.startswith("__"):
            continue
        value = getattr(luod, name)
        entry = f"::: {value.__module__}.{value.__qualname__}"
        (errors if isinstance(value, type) and issubclass(value, Exception) else homes).append(entry)
    tree = inspect.getdoc(__import__("luod.errors", fromlist=["errors"])) or ""
    return "\n\n".join(
        [
            "# Python",
            _IMPORTING,
            *homes,
            "## Errors",
            f"```\n{tree}\n```",
            *errors,
        ]
    )
