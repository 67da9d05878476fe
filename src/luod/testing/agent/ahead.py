"""Imports into the agent what a program needs, before the program is forked: the boot's later programs have it, too.

On a processor that QEMU emulates, the imports of luod take seconds, and a fork 40 ms. `programs` uses it for an agent
that is started with --forks; `luod.testing.starter` has imported all of it before it makes an agent.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from luod.testing.preloaded import later


def import_for(argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Imports the modules that the words of `argv` run with -m, and those that they import later.

    A module that cannot be imported is left out: the program will say why.
    """
    # A program may start another, as `luod.testing.started` does.
    modules = [name for option, name in itertools.pairwise(argv) if option == "-m"]
    if all(name in sys.modules for name in modules):
        return
    with _searched(environment), _without_ssl(), _without_collections():
        for module in modules:
            if _is_imported(module):
                for name in later(module):
                    _is_imported(name)
    gc.freeze()  # a collection in a fork would copy every page


def _is_imported(name: str) -> bool:
    try:
        importlib.import_module(name)
    except (Exception, SystemExit):  # noqa: BLE001 - the program's, which imports it again
        return False
    return True


@contextlib.contextmanager
def _searched(environment: Mapping[str, str]) -> Iterator[None]:
    """Searches the directories of the program's PYTHONPATH, too."""
    before = list(sys.path)
    places = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [place for place in places if place and place not in before]
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def _without_ssl() -> Iterator[None]:
    """Lets asyncio be imported as luod does (`luod.daemon.main`). A program that imports ssl itself gets it."""
    if "ssl" in sys.modules:
        yield
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]  # None makes the import fail
    try:
        yield
    finally:
        del sys.modules["ssl"]


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
