"""Makes a forked process a Python program, as exec of `python3 -m MODULE …` or `python3 -c SOURCE …` would.

Standard library only. Runs in a process that was forked for it and has one thread, and never returns to the caller.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn

_SETTINGS = ("PYTHON", "LC_", "LANG")
"""Beginnings of the names of variables that Python reads at its start only."""


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that Python reads at its start only."""
    return {name: value for name, value in environment.items() if name.startswith(_SETTINGS)}


def possible(argv: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Returns whether a fork of this process can run `argv` as an exec would: this Python, its settings, -m or -c.

    PYTHONPATH may be longer than that of this process.
    """
    if len(argv) < 3 or argv[0] != sys.executable or argv[1] not in ("-m", "-c"):
        return False
    ours, theirs = settings(os.environ), settings(environment)
    path, longer = ours.pop("PYTHONPATH", ""), theirs.pop("PYTHONPATH", "")
    return ours == theirs and f"{longer}{os.pathsep}".startswith(f"{path}{os.pathsep}" if path else "")


def run(argv: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Ends this process with the program of `argv`, for which `possible` is true."""
    path = _search_path(os.environ)
    sys.path[1 + len(path) : 1 + len(path)] = _search_path(environment)[len(path) :]
    sys.path[0] = os.getcwd() if argv[1] == "-m" else ""
    set_environment(environment)
    sys.orig_argv = list(argv)
    end(lambda: _module(argv) if argv[1] == "-m" else _source(argv))


def set_environment(environment: Mapping[str, str]) -> None:
    """Replaces this process's environment."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()


def set_python_signals() -> None:
    """Sets the dispositions that Python has at its start, and no wakeup fd."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)


def close_all_but(keep: Iterable[int]) -> None:
    """Closes every fd of this process that is not in `keep`."""
    kept = set(keep)
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number not in kept:
            try:
                os.close(number)
            except OSError:  # the one that read the directory
                continue


def end(main: Callable[[], object]) -> NoReturn:
    """Runs `main` and ends this process with its result, as Python ends with what a program gives to sys.exit().

    Code of the process that this one was forked from does not continue: no finalizer of its objects runs.
    """
    try:
        status = _status(main)
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        status = 120  # as Python's own, where the output cannot be written
    except BaseException:  # noqa: BLE001 - no caller may continue
        traceback.print_exc()
        status = 1
    finally:
        os._exit(status)


def _status(main: Callable[[], object]) -> int:
    try:
        result = main()
    except SystemExit as ended:
        result = ended.code
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001 - as Python does it
        traceback.print_exc()
        return 1
    if result is None:
        return 0
    if isinstance(result, int):
        return result & 0xFF
    print(result, file=sys.stderr)
    return 1


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
    _execute(compile(argv[2], "<string>", "exec"))


def _execute(code: types.CodeType, **variables: object) -> None:
    """Executes it as a new module __main__: the module may be among those that were imported before the fork."""
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    module.__dict__.update(variables)
    exec(code, module.__dict__)


def _search_path(environment: Mapping[str, str]) -> list[str]:
    """Returns the directories of PYTHONPATH."""
    path = environment.get("PYTHONPATH", "")
    return path.split(os.pathsep) if path else []
