"""The pages about the house are true: the picture of the imports, the tables of rooms, where ten behaviours are."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "luod"
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
WHERE = (ROOT / "docs" / "where.md").read_text(encoding="utf-8")

_PLACE = re.compile(r"^\* `([^`]+)`: ((?:`[^`]+`(?:, )?)+)$", re.MULTILINE)
"""A file, and names in it."""


def test_the_picture_shows_the_imports_as_they_are() -> None:
    drawn = subprocess.run(
        [sys.executable, ROOT / "scripts" / "draw-house", "--stdout"], capture_output=True, text=True, check=True
    ).stdout
    kept = (ROOT / "docs" / "house.svg").read_text(encoding="utf-8")
    assert drawn == kept, "imports changed: run .venv/bin/python scripts/draw-house"


def table(package: str) -> list[str]:
    """Returns the modules that design.md's table of a package names, such as store/registry."""
    _, _, rest = DESIGN.partition(f"| room in `{package}/` | modules | |\n|---|---|---|\n")
    rows = [line.split("|") for line in rest.partition("\n\n")[0].splitlines()]
    return [room.strip(" `") + module for _, room, modules, *_ in rows for module in re.findall(r"`(\w+)`", modules)]


@pytest.mark.parametrize("package", ["daemon", "ipc"])
def test_the_table_of_rooms_names_every_module_once(package: str) -> None:
    folder = SOURCE / package
    there = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(table(package)) == sorted(str(module) for module in there)


def names(path: Path) -> set[str]:
    """Returns the classes and functions of a module, and of its classes as Class.method."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = {node.name for node in tree.body if isinstance(node, kinds)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, kinds)}
    return found


def test_where_md_answers_eleven_questions() -> None:
    sections = WHERE.split("\n## ")[1:]
    assert len(sections) == 11
    assert [section.partition("\n")[0] for section in sections if not _PLACE.search(section)] == []


def test_a_name_crosses_seven_modules_at_most_on_its_way_to_the_ioctl() -> None:
    (walk,) = (section for section in WHERE.split("\n## ") if section.startswith("How does `create` reach"))
    assert len(_PLACE.findall(walk)) <= 7


@pytest.mark.parametrize(("file", "listed"), _PLACE.findall(WHERE))
def test_where_md_names_what_exists(file: str, listed: str) -> None:
    path = SOURCE / file
    assert path.is_file()
    assert set(re.findall(r"`([^`]+)`", listed)) - names(path) == set()
