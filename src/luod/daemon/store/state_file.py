"""Files of the state directory, replaced as a whole: the timeline, the copy of the policy, what an update must undo.

`luod.ctl.files` has the files that luoctl writes for others.
"""

from __future__ import annotations

import contextlib
import os

from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from luod.daemon.store.write_hold import WriteHold


def replace(path: str, data: bytes) -> None:
    """Replaces the file's contents by `data`, for luod alone to read.

    A reader finds the old or the new contents completely, even if luod is killed meanwhile. This does not hold on a
    host that crashes before both the file and its directory were synced. Raises OSError: the old file is still there.
    """
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    with open(new, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
        file.write(data)
    os.rename(new, path)


class StateFile:
    """A file that is in the runtime directory while the state directory must not be written to. There it is always the
    newer one: it is removed when the state directory has it.
    """

    def __init__(self, directory: str, name: str, hold: WriteHold) -> None:
        """`directory` is the state directory."""
        self.name: Final = name
        self._hold = hold
        self._path = os.path.join(directory, name)
        runtime = hold.runtime_directory
        self._runtime_path = None if runtime is None else os.path.join(runtime, name)

    @property
    def paths(self) -> tuple[str, ...]:
        """Returns where it may be, the newer one first."""
        return (self._path,) if self._runtime_path is None else (self._runtime_path, self._path)

    def replace(self, data: bytes, again: Callable[[], None]) -> str | None:
        """Replaces its contents. Returns its path; None: it is nowhere during this hold. At the end of a hold, `again`
        runs, which must write it. Raises OSError.
        """
        path = self._runtime_path if self._hold.waits(self.name, again) else self._path
        if path is not None:
            replace(path, data)
        if path == self._path:
            self._remove_runtime()
        return path

    def remove(self) -> None:
        """Removes it. There must be no hold. Raises OSError."""
        self._remove_runtime()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _remove_runtime(self) -> None:
        if self._runtime_path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._runtime_path)
