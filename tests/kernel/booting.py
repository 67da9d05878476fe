"""Boots real-kernel machines with their logs in pytest's folder. The fixtures and tests of tests/kernel/ use it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from luod.errors import MachineUnavailable
from luod.testing.kernel import KernelMachine
from luod.testing.tools import cannot_run


@contextlib.contextmanager
def booted(
    factory: pytest.TempPathFactory, *, kernel: Path | None = None, arguments: Sequence[str] = ()
) -> Iterator[KernelMachine]:
    """Yields a machine that may write where pytest does. Skips where it cannot run; `arguments` are QEMU's."""
    scratch = factory.getbasetemp()
    folder = tempfile.mkdtemp(prefix="kernel-", dir=scratch)
    try:
        machine = KernelMachine(kernel=kernel, folder=folder, writable=[scratch], arguments=arguments)
    except MachineUnavailable as error:
        cannot_run(f"{error} ({error.hint})" if error.hint else str(error))
    with machine:
        yield machine
