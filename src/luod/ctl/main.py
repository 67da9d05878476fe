"""The `luoctl` command: parses the command line, runs a verb, and turns errors into messages and exit statuses."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from io import TextIOWrapper

from luod.arguments import UsageError, report
from luod.ctl.exits import Exit, kind, status
from luod.ctl.output import Output
from luod.ctl.parser import parser
from luod.ctl.verbs import VERBS
from luod.errors import LuodError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs luoctl with `arguments`, by default those of the process. Returns the exit status."""
    code: int | None = None
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.encoding != "utf-8":
        sys.stdout.reconfigure(errors="backslashreplace")  # the locale may lack letters of a reason or of a path
    try:
        code = _main(sys.argv[1:] if arguments is None else arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except OSError as error:
        # The reader of standard output closed it, or the disk is full.
        if not isinstance(error, BrokenPipeError) and code in (None, Exit.DONE):
            report("luoctl", f"standard output: {error.strerror}")
        # Otherwise Python would flush again at exit, fail, and print its own message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED


def _main(arguments: Sequence[str]) -> int:
    """Runs luoctl. Raises OSError if standard output cannot be written."""
    output = Output(json="--json" in arguments)
    try:
        given = parser(arguments).parse(arguments)
        output = Output(json=given.json)
        if given.admin_socket is None:
            # luod answers users other than root there, if the policy lets them update. Root's commands must not go to
            # the luod at the default place instead.
            given.admin_socket = given.socket
        return _run(given, output)
    except UsageError as error:
        output.failure("Usage", str(error), error.hint, usage=error.usage)
        return Exit.USAGE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except SystemExit as end:  # argparse raises it after --help and --version
        return int(end.code or 0)


def _run(given: Namespace, output: Output) -> int:
    try:
        return VERBS[given.verb].run(given, output)
    except LuodError as error:
        output.failure(kind(error), str(error), error.hint)
        return status(error)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and error.filename is None:
            raise  # standard output, or standard error
        where = "" if error.filename is None else f"{error.filename or repr('')}: "
        hint = "check the path, and whether you may read or write it" if where else ""
        output.failure(type(error).__name__, f"{where}{error.strerror or error}", hint)
        return Exit.FAILED


if __name__ == "__main__":
    sys.exit(main())
