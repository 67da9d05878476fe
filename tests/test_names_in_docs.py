"""Every name of luod's modules, classes and functions, in docs/ and in the source's docstrings and comments, exists."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
MODULES = sorted(SOURCE.rglob("*.py"))

_NAME = re.compile(r"(?<![\w./-])luod(?:\.[A-Za-z_]\w*)+")
_FILES = {"md", "prom", "sock", "toml", "pth", "service", "socket", "timer", "catalog"}
"""Last parts of names of files, such as luod.sock."""
_FILE = re.compile(r"`([a-z_/]+\.py)`")
_CALLERS = re.compile(r"\b(?:Called|Used|Asked) by\b")


@cache
def defined(path: Path) -> frozenset[str]:
    """Returns the names in a module that can be asked of it: what it defines, imports, or lists as text."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name)
            case ast.Constant(value=str(name)):
                names.add(name)
            case ast.Dict(values=values):  # `luod` lists the names of each module
                names.update(
                    name
                    for value in values
                    if isinstance(value, ast.Constant) and isinstance(value.value, str)
                    for name in value.value.split()
                )
            case _:
                pass
    return frozenset(names)


def exists(name: str) -> bool:
    """Returns whether `name`, such as luod.linux.Fd or luod.Client.create, is a module or something in one; or the
    collection for Ansible, or a playbook or a role in it.
    """
    place = SOURCE
    parts = name.split(".")
    if parts[:2] == ["luod", "host"]:
        homes = (f"playbooks/{'/'.join(parts[2:])}.yml", f"roles/{'/'.join(parts[2:])}/tasks")
        return not parts[2:] or any((ROOT / "ansible" / home).exists() for home in homes)
    for index, part in enumerate(parts):
        if (place / part).is_dir():
            place = place / part
            continue
        module = place / f"{part}.py"
        if module.is_file():
            rest = parts[index + 1 :]
            return not rest or rest[0] in defined(module)
        return (place / "__init__.py").is_file() and part in defined(place / "__init__.py")
    return True


def written(text: str) -> Iterator[str]:
    """Yields the names in `text`; names of Varlink (io.luod.…) and of files do not count."""
    for found in _NAME.finditer(text):
        if found[0].rpartition(".")[2] not in _FILES:
            yield found[0]


@cache
def prose(path: Path) -> str:
    """Returns a module's docstrings and comments."""
    with tokenize.open(path) as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    return "\n".join(
        token.string
        for token in tokens
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and '"""' in token.string[:4])
    )


@pytest.mark.parametrize(
    "name",
    [
        "luod.linux.Fd",
        "luod.Client.create",
        "luod.daemon.store",
        "luod.daemon.serve",
        "luod.host.update",
        "luod.host.install",
    ],
)
def test_a_name_that_exists_is_found(name: str) -> None:
    assert exists(name)


@pytest.mark.parametrize(
    "name", ["luod.daemon.keep", "luod.linux.Fdd", "luod.Nothing", "luod.daemon.store.takeover", "luod.host.upgrade"]
)
def test_a_name_that_does_not_exist_is_not_found(name: str) -> None:
    assert not exists(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_name_what_exists(page: Path) -> None:
    assert [name for name in written(page.read_text(encoding="utf-8")) if not exists(name)] == []


def test_the_source_names_what_exists() -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {name}" for path in MODULES for name in written(prose(path)) if not exists(name)
    ]
    assert missing == []


def test_the_source_names_files_that_exist() -> None:
    """Such as `context.py`: in the package of the module that names it, or in one above it."""
    missing = [
        f"{path.relative_to(ROOT)}: {file}"
        for path in MODULES
        for file in _FILE.findall(prose(path))
        if not any((folder / file).is_file() for folder in path.parents)
    ]
    assert missing == []


def test_docstrings_do_not_list_their_callers() -> None:
    """Such lists are wrong after the next change."""
    assert [str(path.relative_to(ROOT)) for path in MODULES if _CALLERS.search(prose(path))] == []


def test_every_hazard_that_is_named_has_a_row() -> None:
    rows = re.findall(r"^\| (H\d+) \|", (ROOT / "docs" / "hazards.md").read_text(), re.MULTILINE)
    assert rows == [f"H{number}" for number in range(1, len(rows) + 1)]
    texts = [path.read_text(encoding="utf-8") for path in (*PAGES, *MODULES, *sorted((ROOT / "tests").rglob("*.py")))]
    named = {name for text in texts for name in re.findall(r"\bH\d{1,2}\b", text)}
    assert named <= {*rows}
