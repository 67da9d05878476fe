"""The source of the limits: the files of /proc and of the cgroup file system, by path, or kept open beforehand.

The rules for limits are in `luod.memory`. Every call raises OSError for a file that cannot be read, with the path in
it: an unreadable limit is unknown, which differs from no limit.
"""

from __future__ import annotations

import errno
import os
import stat

from luod.memory import cgroup
from luod.static import Final, Protocol

_CHUNK: Final = 64 * 1024
_READ: Final = os.O_RDONLY | os.O_CLOEXEC


class Source(Protocol):
    def text(self, path: str) -> str:
        """Returns the whole file. Raises OSError."""

    def exists(self, path: str) -> bool: ...

    def directories(self, membership: str) -> tuple[str, ...]:
        """Returns the directories of the memory cgroups in `membership` (the text of /proc/PID/cgroup), innermost
        first.

        Raises OSError: no mounted file system shows them. Raises ValueError: it is not such a text.
        """

    def really_empty(self, path: str) -> bool:
        """Returns whether an empty `path` is the kernel's own file, and not a file or device mounted over it."""


class Live:
    """Reads each file on demand. `root` is the directory that has /proc and /sys."""

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        # These files are read before every PRESERVE_FD and RETRIEVE_FD, so paths are plain strings.
        self._under = os.fspath(root).rstrip("/")

    def text(self, path: str) -> str:
        file = os.open(self._under + path, _READ)
        try:
            return b"".join(iter(lambda: os.read(file, _CHUNK), b"")).decode("utf-8", "surrogateescape")
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        finally:
            os.close(file)

    def exists(self, path: str) -> bool:
        return os.path.exists(self._under + path)

    def directories(self, membership: str) -> tuple[str, ...]:
        return cgroup.directories(self._under, membership, self.text)

    def really_empty(self, path: str) -> bool:
        found = os.stat(self._under + path)
        return stat.S_ISREG(found.st_mode) and found.st_dev == os.stat(os.path.dirname(self._under + path)).st_dev


class Keeping:
    """Reads as `Live` does and keeps the files open. After `seal` it reads those files and opens no other.

    So it can be read after chroot(2). It keeps files and no directory: a directory would lead out of a chroot. It owns
    the fds, and closes them when it is collected.
    """

    def __init__(self) -> None:
        self._live = Live()
        self._files: dict[str, int] = {}
        self._answers: dict[str, bool] = {}
        self._places: dict[str, tuple[str, ...]] = {}
        self._sealed = False

    def seal(self) -> None:
        self._sealed = True

    def text(self, path: str) -> str:
        file = self._files.get(path)
        if file is None:
            if self._sealed:
                raise OSError(errno.ENOENT, "it was not there", path)
            file = self._files[path] = os.open(path, _READ)
        parts, at = [], 0
        while part := os.pread(file, _CHUNK, at):
            parts.append(part)
            at += len(part)
        return b"".join(parts).decode("utf-8", "surrogateescape")

    def exists(self, path: str) -> bool:
        if not self._sealed:
            self._answers[path] = self._live.exists(path)
        return self._answers.get(path, False)

    def directories(self, membership: str) -> tuple[str, ...]:
        if not self._sealed:
            self._places[membership] = self._live.directories(membership)
        if membership not in self._places:
            raise OSError(errno.ESTALE, "this process has moved to another cgroup", "/proc/self/cgroup")
        return self._places[membership]

    def really_empty(self, path: str) -> bool:
        if not self._sealed:
            self._answers[f"empty {path}"] = self._live.really_empty(path)
        return self._answers.get(f"empty {path}", False)

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    __del__ = close
