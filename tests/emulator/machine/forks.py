"""Starts luoemu for the tests without a start of Python, by `luod.testing.starter`. Init is a fork too if it is Python.

A test whose subject is a start, an exec, the command line or a process group starts luoemu by `subprocess`.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from luod.testing.interpreter import Interpreter
from luod.testing.starter.outside import Order, Started, start


@dataclass
class Fork:
    """A luoemu that runs, with pipes for its output."""

    process: Started
    stdout: TextIO
    stderr: TextIO | None


@contextmanager
def started(
    python: Interpreter,
    options: Sequence[str],
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    directory: str | Path = "/",
    stdin: int | None = None,
    stderr: int | None = None,
    errors: str = "strict",
) -> Iterator[Fork]:
    """Starts `luoemu run OPTIONS -- COMMAND` as `python.user`. It is killed at the end if it still runs.

    `stdin` None is /dev/null, `stderr` None a pipe. `errors` is about bytes of the output that are no text.
    """
    with contextlib.ExitStack() as files:
        with contextlib.ExitStack() as theirs:

            def pipe() -> tuple[TextIO, int]:
                reader, writer = os.pipe()
                theirs.callback(os.close, writer)
                return files.enter_context(open(reader, errors=errors)), writer

            output, stdout = pipe()
            said = None
            if stderr is None:
                said, stderr = pipe()
            order = Order(options, command, environment, stdout, stderr, stdin, directory=str(directory))
            process = start(python, order)
        try:
            yield Fork(process, output, said)
        finally:
            process.kill()
            process.wait()


def finished(luoemu: Fork, command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Reads the output until no process of the machine is left that could write, and waits for the end of luoemu.

    Raises subprocess.TimeoutExpired, with what was written until then.
    """
    assert luoemu.stderr is not None
    output: dict[TextIO, list[bytes]] = {luoemu.stdout: [], luoemu.stderr: []}
    deadline = time.monotonic() + seconds

    def texts() -> list[str]:
        return [b"".join(parts).decode(file.encoding, file.errors or "strict") for file, parts in output.items()]

    with selectors.DefaultSelector() as selector:
        for file in output:
            selector.register(file, selectors.EVENT_READ)
        while selector.get_map():
            if not (ready := selector.select(max(0.0, deadline - time.monotonic()))):
                written, said = texts()
                late = subprocess.TimeoutExpired(list(command), seconds, written, said)
                late.add_note(f"--- stdout\n{written}\n--- stderr\n{said}")
                raise late
            for key, _ in ready:
                if data := os.read(key.fd, 1 << 16):
                    output[key.fileobj].append(data)  # type: ignore[index]  # it is one of the two
                else:
                    selector.unregister(key.fileobj)
    status = luoemu.process.wait(max(0.0, deadline - time.monotonic()))
    return subprocess.CompletedProcess(list(command), status, *texts())
