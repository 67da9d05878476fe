"""The program luod: the supervisor, which forks serve from itself.

Both are imported here, before the fork, so that guests that wait for their sessions wait for one interpreter and one
import. What runs here is on the path of the blackout (docs/performance.md).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from luod.daemon.log import to_journal
from luod.daemon.options import Options, plain
from luod.daemon.supervisor import open_files
from luod.errors import LuodError, Refused
from luod.frozen import replace
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from luod.daemon.supervisor.serve_process import Given


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs luod with `arguments`, those of the process by default; returns its exit status."""
    gc.disable()  # until serve is forked
    open_files.open_standard()
    words = sys.argv[1:] if arguments is None else arguments
    options = plain(words)
    return _parse_and_run(words) if options is None else _run(options)


def _parse_and_run(words: Sequence[str]) -> int:
    from luod.arguments import UsageError, report
    from luod.daemon import command_line

    try:
        given = command_line.parser().parse(words)
    except UsageError as error:
        report("luod", str(error), usage=error.usage, hint=error.hint, prefix=_prefix())
        return 2
    if given.verb is None:
        return _run(command_line.options(given))
    try:
        mistakes = command_line.check_config(given.file)
    except LuodError as error:
        return _failed(error)
    for mistake in mistakes:
        _failed(mistake)
    return 1 if mistakes else 0


def import_asyncio() -> None:
    """Imports asyncio without ssl, as in a Python that was built without it: ssl would cost a tenth of luod's start."""
    sys.modules["ssl"] = None  # type: ignore[assignment]  # None makes the import fail
    try:
        import asyncio  # noqa: F401 - for those that import it later
    finally:
        del sys.modules["ssl"]


def _run(options: Options) -> int:
    import_asyncio()
    from luod.daemon import later, serve
    from luod.daemon.supervisor import start

    def served(given: Given) -> int:
        try:
            return serve.run(options, given)
        except LuodError as error:
            return _failed(error)

    try:
        if options.config is not None:
            options = replace(options, config=_absolute(options.config))
        return start.run(options, served, (*later.MODULES, *later.FURTHER))
    except LuodError as error:
        return _failed(error)


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise Refused(
            f"--config {path!r}: there is no current directory: {error}", hint="give an absolute path"
        ) from error


def _failed(error: LuodError) -> int:
    from luod.arguments import report

    report("luod", str(error), hint=error.hint, prefix=_prefix())
    return 1


def _prefix() -> str:
    return "<3>" if to_journal() else ""


if __name__ == "__main__":
    sys.exit(main())
