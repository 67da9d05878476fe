"""Imports into the agent what a program needs, before the program is forked: the boot's later programs have it, too.

These are modules of luod, which every program finds in the same place, and those of the tests that `luod.testing.suite`
is given. Any other module is imported by the program that needs it: the agent is PID 1, and must not run it.

On a processor that QEMU emulates, the imports of luod take seconds, and a fork 40 ms. `programs` uses it for an agent
that is started with --forks; `luod.testing.starter` has imported all of it before it makes an agent.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from luod.testing import suite
from luod.testing.preloaded import later


class Ahead:
    """Imports for programs: any modules of luod, and the tests' own that it is given."""

    def __init__(
        self, directories: Sequence[str], modules: Sequence[str], tell: Callable[[str], None] = lambda name: None
    ) -> None:
        """`directories` are those of the tests' modules.

        `tell` gets the name of each of these before its import, which may block, and "" after it.
        """
        suite.search(directories)
        self._modules = modules
        self._tell = tell
        self._refused: suite.Refused | None = None

    def import_for(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Imports the modules that `argv` runs, and those that they import later.

        A module that cannot be imported is left out: the program will say why. Raises suite.Refused, as
        `suite.import_all` does, and for every later program.
        """
        if self._refused is not None:
            raise self._refused
        new = [name for name in _run_by(argv) if name not in sys.modules]
        searched = suite.is_searched(suite.search_path(environment.get("PYTHONPATH", "")))
        with _without_collections():
            for name in new:
                if name.partition(".")[0] == "luod":
                    _import_luods(name)
                elif searched and name in self._modules:
                    self._tell(name)
                    try:
                        suite.import_all([name])
                    except suite.Refused as error:
                        self._refused = error
                        raise
                    finally:
                        self._tell("")
        if new:
            gc.freeze()  # a collection in a fork would copy every page


def _run_by(argv: Sequence[str]) -> Iterator[str]:
    """Yields the modules that `argv` runs with -m: `luod.testing.started` runs another program."""
    if len(argv) > 2 and argv[1] == "-m":
        yield argv[2]
        if list(argv[2:4]) == ["luod.testing.started", "--fork"]:
            yield from _run_by(argv[4:])


def _import_luods(module: str) -> None:
    with _without_ssl() if module == "luod.daemon.main" else contextlib.nullcontext():
        if _is_imported(module):
            for name in later(module):
                _is_imported(name)


def _is_imported(name: str) -> bool:
    try:
        importlib.import_module(name)
    except (Exception, SystemExit):  # noqa: BLE001 - the program's, which imports it again
        return False
    return True


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
