"""The modules of the tests themselves that a process imports before it forks the tests' programs.

They are those of the plugin's option `luod_preload`, with the directories in which pytest finds them. A program has
them if an exec would find the same by its PYTHONPATH, and imports its own otherwise. `luod.testing.preload` has what
the option names. Standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import all_suffixes
from types import FrameType
from typing import Any

_before: list[str] = []
"""The directories that a program must search before those of the tests: this process's PYTHONPATH."""
_directories: list[str] = []
_imported: set[str] = set()
"""The names of the modules from `_directories`."""


class Refused(Exception):
    """A module has done something, when it was imported, that every process forked later would inherit or lack."""


def missing(directories: Sequence[str], modules: Sequence[str]) -> list[str]:
    """Returns the modules of which there is no file in `directories` or where this Python finds its own."""
    places = [*directories, *sys.path]
    return [name for name in modules if not any(_is_at(os.path.join(place, *name.split("."))) for place in places)]


def search(directories: Sequence[str]) -> None:
    """Sets the directories of the tests, for `is_searched` and `import_all`. Call it before PYTHONPATH changes."""
    _before[:] = search_path(os.environ.get("PYTHONPATH", ""))
    _directories[:] = directories


def is_searched(path: Sequence[str]) -> bool:
    """Returns whether a program with this PYTHONPATH finds what this process imports from the tests' directories."""
    return list(path[: len(_before) + len(_directories)]) == _before + _directories


def import_all(modules: Sequence[str]) -> None:
    """Imports the modules, also from the tests' directories, for the programs that this process forks later.

    A module that cannot be imported is left out: the program that needs it says why. Raises Refused: one has started a
    thread, has set the handler of a signal, or has registered an exit function. This process must not be forked then.
    """
    before, path = set(sys.modules), list(sys.path)
    place = 1 + len(_before)  # the program's own directory is before them
    sys.path[place:place] = _directories
    try:
        for name in modules:
            with _watched(name), contextlib.suppress(Exception, SystemExit):  # the program's, which imports it again
                importlib.import_module(name)
    finally:
        sys.path[:] = path
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()  # what a module printed would be in the buffer of every fork
    _imported.update(name for name in set(sys.modules) - before if _is_of_the_tests(name))


def forget_unless_searched(path: Sequence[str]) -> None:
    """Forgets what `import_all` imported from the directories, unless a program with this PYTHONPATH finds the same."""
    if not is_searched(path):
        for name in _imported:
            sys.modules.pop(name, None)


def search_path(text: str) -> list[str]:
    """Returns the directories of a PYTHONPATH."""
    return text.split(os.pathsep) if text else []


@contextlib.contextmanager
def _watched(name: str) -> Iterator[None]:
    """Raises Refused when the import of module `name`, in the block, has left what a fork would inherit or lack."""
    handlers = _handlers()
    with _exit_functions() as registered:
        yield
    if threading.active_count() > 1:
        what = "starts a thread when it is imported, so no program can be forked after it"
    elif registered:
        what = "registers an exit function when it is imported, which every process forked after it would run"
    elif _handlers() != handlers:
        what = "sets the handler of a signal when it is imported, which every process forked after it would have"
    else:
        return
    raise Refused(f"luod_preload: {name} {what}")


def _handlers() -> list[object]:
    return [signal.getsignal(number) for number in sorted(signal.valid_signals())]


@contextlib.contextmanager
def _exit_functions() -> Iterator[list[object]]:
    """Yields a list, to which the exit functions are added that modules of the tests register in the block.

    Those of the standard library, such as logging's, are harmless in every process.
    """
    found: list[object] = []
    register = atexit.register

    def noted(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        if _is_by_the_tests(sys._getframe(1)):
            found.append(function)
        return register(function, *args, **kwargs)

    atexit.register = noted  # there is no list of those that are registered
    try:
        yield found
    finally:
        atexit.register = register


def _is_by_the_tests(frame: FrameType | None) -> bool:
    """Returns whether `frame`, or a frame outside it in the same import, is of the tests."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        if _is_of_the_tests(frame.f_globals.get("__name__", "")):
            return True
        frame = frame.f_back
    return False


def _is_of_the_tests(name: str) -> bool:
    return _directory(name.partition(".")[0]) in _directories


def _is_at(path: str) -> bool:
    return os.path.isdir(path) or any(os.path.isfile(path + suffix) for suffix in all_suffixes())


def _directory(package: str) -> str:
    """Returns the directory in which a module that is in no package was found; "" for one that has no file."""
    spec = getattr(sys.modules.get(package), "__spec__", None)
    if spec is None:
        return ""
    return os.path.dirname(next(iter(spec.submodule_search_locations or ()), spec.origin or ""))
