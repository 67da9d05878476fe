"""The errors that end a machine with words: one that a user can remedy, and a fault of luoemu itself."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

from luod.emulator.model.results import Panic


class MachineError(Exception):
    """The machine cannot be started or cannot continue. The message gives the reason and a remedy in one sentence."""


@contextlib.contextmanager
def own_faults_told() -> Iterator[None]:
    """Prints the traceback of an exception that only a fault of luoemu raises, at once. Raises MachineError for it."""
    try:
        yield
    except (MachineError, OSError, Panic):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the fault is, the machine ends with words
        traceback.print_exc()
        sys.stderr.flush()
        raise MachineError(own_fault(error)) from None


def own_fault(error: BaseException) -> str:
    """Returns what luoemu says of an exception that only a fault of its own raises."""
    return f"a fault of luoemu itself ({type(error).__name__}): please report the traceback"
