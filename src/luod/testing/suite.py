"""The modules of the tests themselves that a process imports before it forks the tests' programs.

They are those of the plugin's option `luod_preload`, with the directories in which pytest finds them. A program has
them if an exec would find the same by its PYTHONPATH, and imports its own otherwise. Standard library only.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import all_suffixes

_before: list[str] = []
"""The directories that a program must search before those of the tests: this process's PYTHONPATH."""
_directories: list[str] = []
_imported: list[str] = []
"""The names of the modules from `_directories`."""


def missing(directories: Sequence[str], modules: Sequence[str]) -> list[str]:
    """Returns the modules of which there is no file in `directories` or where this Python finds its own."""
    places = [*directories, *sys.path]
    return [name for name in modules if not any(_is_at(os.path.join(place, *name.split("."))) for place in places)]


def import_all(directories: Sequence[str], modules: Sequence[str]) -> None:
    """Imports the modules, also from `directories`, for the programs that this process forks later.

    A module that cannot be imported is left out: the program that needs it says why. Raises SystemExit if one has
    started a thread, which a fork would not have.
    """
    _before[:] = search_path(os.environ.get("PYTHONPATH", ""))
    _directories[:] = directories
    before, path = set(sys.modules), list(sys.path)
    place = 1 + len(_before)  # the program's own directory is before them
    sys.path[place:place] = directories
    try:
        for name in modules:
            try:
                importlib.import_module(name)
            except (Exception, SystemExit):  # noqa: BLE001 - the program's, which imports it again
                continue
            if threading.active_count() > 1:
                sys.exit(
                    f"luod_preload: {name} starts a thread when it is imported, so no program can be forked after it"
                )
    finally:
        sys.path[:] = path
    _imported[:] = [name for name in set(sys.modules) - before if _directory(name.partition(".")[0]) in directories]


def forget_unless_searched(path: Sequence[str]) -> None:
    """Forgets what `import_all` imported from the directories, unless a program with this PYTHONPATH finds the same."""
    if list(path[: len(_before) + len(_directories)]) != _before + _directories:
        for name in _imported:
            sys.modules.pop(name, None)


def search_path(text: str) -> list[str]:
    """Returns the directories of a PYTHONPATH."""
    return text.split(os.pathsep) if text else []


def _is_at(path: str) -> bool:
    return os.path.isdir(path) or any(os.path.isfile(path + suffix) for suffix in all_suffixes())


def _directory(package: str) -> str:
    """Returns the directory in which a module that is in no package was found; "" for one that has no file."""
    spec = getattr(sys.modules.get(package), "__spec__", None)
    if spec is None:
        return ""
    return os.path.dirname(next(iter(spec.submodule_search_locations or ()), spec.origin or ""))
