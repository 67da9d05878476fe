"""Writes to the state directory, which wait while guests are paused: a disk that hangs would hold the guests too.

Each part of serve that has a file there asks `waits` before it writes. Meanwhile the registry and the timeline are
written to the runtime directory, which is in memory, so that they outlive a luod that is killed. What must be on the
disk before the kexec is written by a process of its own, `luod.daemon.updates.disk_process`. Pure.
"""

from __future__ import annotations

from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable


class WriteHold:
    """Whether writes wait, and those that do. It has no effect before `begin`."""

    def __init__(self, runtime_directory: str | None = None) -> None:
        """`runtime_directory`: where files are written meanwhile; None: nowhere."""
        self.runtime_directory: Final = runtime_directory
        self._holds = False
        self._restoring = False
        self._why = ""
        self._waiting: dict[str, Callable[[], None]] = {}

    @property
    def holds(self) -> bool:
        return self._holds

    @property
    def restoring(self) -> bool:
        """Returns whether writes wait for guests that are being restored, and not for an update or a disk."""
        return self._holds and self._restoring

    @property
    def why(self) -> str:
        """Returns what is wrong with the disk; "" if nothing is known to be."""
        return self._why

    def begin(self, why: str = "", *, restoring: bool = False) -> None:
        """Makes writes wait. A second call changes only the reason, and whether it is for guests that are restored."""
        self._holds, self._why, self._restoring = True, why, restoring

    def waits(self, file: str, write: Callable[[], None]) -> bool:
        """Returns whether a write of `file` waits. Then `write`, which writes all of it, runs at the end of the hold,
        in place of an earlier one of this file.
        """
        if self._holds:
            self._waiting[file] = write
        return self._holds

    def write(self, file: str, write: Callable[[], None]) -> None:
        """Runs `write` now, or at the end of the hold, as `waits`."""
        if not self.waits(file, write):
            write()

    def drop(self, file: str) -> None:
        """Drops the write of `file` that waits, if any: the file is as it has to be."""
        self._waiting.pop(file, None)

    def end(self) -> None:
        """Runs the writes that wait. Each handles its own errors."""
        self._holds, self._restoring, self._why = False, False, ""
        waiting, self._waiting = self._waiting, {}
        for write in waiting.values():
            write()
