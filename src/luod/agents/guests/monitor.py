"""What an agent needs of a QEMU's monitor, by whichever way its commands go there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from luod.errors import QmpUnknown
from luod.linux import HasFileno

T = TypeVar("T")


class Monitor(Protocol):
    """The monitor of one QEMU."""

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Runs a command and returns its answer, unchecked.

        Raises QmpFailed: QEMU refuses. Raises QemuEnded: it is gone. Raises QemuLate: it does not answer.
        """

    async def asked(self, command: str, read: Callable[[Any], T], arguments: Mapping[str, object] | None = None) -> T:
        """Runs a command and returns what `read` takes from its answer.

        Raises QmpUnknown: `read` does not find what it looks for. Raises as `execute`.
        """

    async def execute_with(
        self, file: HasFileno, command: str, arguments: Mapping[str, object], read: Callable[[Any], T]
    ) -> T:
        """Runs a command that takes a file, such as getfd, as `asked`. QEMU gets a duplicate of the caller's `file`."""


def taken(command: str, read: Callable[[Any], T], answer: Any) -> T:
    """Returns what `read` takes from the answer to a command. Raises QmpUnknown: it is not there."""
    try:
        return read(answer)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise QmpUnknown(f"{command}: QEMU answered {str(answer)[:200]}") from error
