"""Makes a forked process a Python program, as exec of `python3 -m MODULE …` or `python3 -c SOURCE …` would.

Standard library only. Runs in a process that was forked for it and has one thread, and never returns to the caller.
"""

from __future__ import annotations

import atexit
import gc
import importlib.util
import io
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn

from luod.linux import syscall
from luod.testing import suite

_PR_SET_DUMPABLE = 4
_SETTINGS = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_")
"""Beginnings of the names of variables that Python, the loader or the C library reads at a program's start only."""


_INTERRUPTED = 128 + signal.SIGINT
"""The status of a program that a KeyboardInterrupt ended, where it cannot end by that signal: as PID 1."""


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that are read at a program's start only."""
    return {name: value for name, value in environment.items() if name.startswith(_SETTINGS)}


def extends(longer: str, path: str) -> bool:
    """Returns whether a PYTHONPATH is `path`, or `path` and more after it."""
    return f"{longer}{os.pathsep}".startswith(f"{path}{os.pathsep}" if path else "")


def possible(argv: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Returns whether a fork of this process can run `argv` as an exec would: this Python, its settings, -m or -c.

    PYTHONPATH may be longer than that of this process.
    """
    if len(argv) < 3 or argv[0] != sys.executable or argv[1] not in ("-m", "-c"):
        return False
    if sys.flags.safe_path:  # `run` finds its place in a search path that begins with the program's
        return False
    ours, theirs = settings(os.environ), settings(environment)
    path, longer = ours.pop("PYTHONPATH", ""), theirs.pop("PYTHONPATH", "")
    return ours == theirs and extends(longer, path)


def run(argv: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Ends this process with the program of `argv`, for which `possible` is true."""
    end(lambda: _program(argv, environment))


def _program(argv: Sequence[str], environment: Mapping[str, str]) -> None:
    set_environment(environment)
    suite.forget_unless_searched(_search_path(environment))
    sys.path[0] = os.getcwd() if argv[1] == "-m" else ""
    sys.orig_argv = list(argv)
    (_module if argv[1] == "-m" else _source)(argv)


def set_environment(environment: Mapping[str, str]) -> None:
    """Replaces this process's environment. Its PYTHONPATH, which may be longer, is searched from now on."""
    path = _search_path(os.environ)
    place = len(path) if sys.flags.safe_path else 1 + len(path)  # the program's directory is before it
    sys.path[place:place] = _search_path(environment)[len(path) :]
    # Only what differs: each variable that is set is memory that the fork must copy.
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    time.tzset()


def set_python_signals() -> None:
    """Sets the dispositions that Python has at its start, and no wakeup fd."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)


def set_dumpable() -> None:
    """Gives /proc/PID to the process's own user, as an exec does."""
    syscall("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)


def close_all_but(keep: Iterable[int]) -> None:
    """Closes every fd of this process that is not in `keep`.

    The objects that own them are never collected here: they would close the fds of others, of the same numbers.
    """
    gc.freeze()
    kept = set(keep)
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number not in kept:
            try:
                os.close(number)
            except OSError:  # the one that read the directory
                continue


def end(main: Callable[[], object]) -> NoReturn:
    """Runs `main` and ends this process with its result, as Python ends with what a program gives to sys.exit().

    Code of the process that this one was forked from does not continue: no finalizer of its objects runs. Of the
    program's own objects, files that were not closed are flushed, and no finalizer (`__del__`) runs.
    """
    status, interrupted = 1, False
    try:
        status, interrupted = _status(main)
        threading._shutdown()  # type: ignore[attr-defined]  # joins threads, those of executors after telling them
        atexit._run_exitfuncs()
        _flush_files()
        if not _flush_streams():
            status, interrupted = 120, False  # as Python's own, where the output cannot be written
    except BaseException:  # noqa: BLE001 - no caller may continue
        traceback.print_exc()
        status = 1
    finally:
        if interrupted:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(status)


def _flush_streams() -> bool:
    """Flushes the standard streams. Returns whether the program's own could be written.

    A program that has put another object in place of a stream may have written to the stream before.
    """
    written = True
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        stream = getattr(sys, name, None)
        if stream is not None and not getattr(stream, "closed", False):
            try:
                stream.flush()
            except Exception:  # noqa: BLE001 - of any object
                written = written and name.startswith("__")
    return written


def _flush_files() -> None:
    """Flushes the files that the program did not close, text before bytes: those made since gc.freeze()."""
    files = [each for each in gc.get_objects() if issubclass(type(each), (io.TextIOBase, io.BufferedIOBase))]
    for file in sorted(files, key=lambda each: not issubclass(type(each), io.TextIOBase)):
        try:
            if not file.closed and file.writable():
                file.flush()
        except Exception:  # noqa: BLE001 - an interpreter ignores it, too
            continue


def _status(main: Callable[[], object]) -> tuple[int, bool]:
    """Returns the exit status, and whether a KeyboardInterrupt ended it."""
    try:
        result = main()
    except SystemExit as ended:
        result = ended.code
    except BaseException as error:  # noqa: BLE001 - as Python does it
        _report(error)
        return (_INTERRUPTED, True) if isinstance(error, KeyboardInterrupt) else (1, False)
    if result is None:
        return 0, False
    if isinstance(result, int):
        return result & 0xFF, False
    print(result, file=sys.stderr)
    return 1, False


def _report(error: BaseException) -> None:
    """Calls sys.excepthook, which a program may have replaced. The traceback begins with the program's own frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    error = error.with_traceback(trace)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    try:
        sys.excepthook(type(error), error, trace)
    except BaseException:  # noqa: BLE001 - as Python does it
        print("Error in sys.excepthook:", file=sys.stderr)
        traceback.print_exc()
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(error), error, trace)


def _module(argv: Sequence[str]) -> None:
    spec = importlib.util.find_spec(argv[2])
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{argv[2]}.__main__")
    code = None if spec is None or spec.loader is None else spec.loader.get_code(spec.name)  # type: ignore[attr-defined]
    if spec is None or code is None:
        sys.exit(f"{argv[0]}: No module named {argv[2]}")
    sys.argv = [spec.origin or argv[2], *argv[3:]]
    _execute(code, __spec__=spec, __loader__=spec.loader, __file__=spec.origin, __package__=spec.parent)


def _source(argv: Sequence[str]) -> None:
    sys.argv = ["-c", *argv[3:]]
    _execute(compile(argv[2], "<string>", "exec", dont_inherit=True))


def _execute(code: types.CodeType, **variables: object) -> None:
    """Executes it as a new module __main__: the module may be among those that were imported before the fork."""
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    module.__dict__.update(variables)
    exec(code, module.__dict__)


def _search_path(environment: Mapping[str, str]) -> list[str]:
    """Returns the directories of PYTHONPATH."""
    return suite.search_path(environment.get("PYTHONPATH", ""))
