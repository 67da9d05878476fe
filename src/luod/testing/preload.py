"""The modules of tests that the next machines import before they fork programs: what the option `luod_preload` names.

This is the test's side, for machines of every kind; `luod.testing.suite` imports them.
"""

from __future__ import annotations

import os

from luod.frozen import frozen


@frozen
class Suite:
    """Modules of the tests, and the directories they are in."""

    directories: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """Returns it as two words of a command line: the directories as in PYTHONPATH, the modules with spaces."""
        return [os.pathsep.join(self.directories), " ".join(self.modules)]


_suite = Suite()


def preload(suite: Suite) -> Suite:
    """Has the next machines import `suite` before they fork programs. Returns the suite before."""
    global _suite
    before, _suite = _suite, suite
    return before


def current() -> Suite:
    """Returns the suite of the next machine."""
    return _suite
