"""The devices of one boot, as `trap.supervisor` drives them: mounts, sleeping callers, and polls of mapped registers.

Only a machine with devices has this. The model itself hands out some files: a group's device, a retrieved device.
`opener.py` opens such a file, and `install` puts it into the caller. While the model holds the file too, one fd of it
stays here, so that the next call gets the same open file description.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from luod.emulator.model.ports import Errno
from luod.emulator.model.results import Blocked, Waiting
from luod.emulator.model.vfio.files import ModelFile
from luod.emulator.model.vfio.vfio import Vfio
from luod.emulator.trap.devices import opener
from luod.emulator.trap.devices.caller import DeviceThread
from luod.emulator.trap.devices.files import DeviceFiles, HandedOut, OpenFiles
from luod.emulator.trap.devices.memory import DeviceMemory
from luod.emulator.trap.devices.sysfs_files import SysfsFiles
from luod.emulator.trap.fuse.server import Request, Unmounted
from luod.emulator.trap.fuse.tree import Answer, FileSystem, FuseTree
from luod.emulator.trap.process.caller import Surroundings, Thread
from luod.emulator.trap.process.placeholder import Identity
from luod.emulator.trap.seccomp.notify import Notification
from luod.linux import Fd

_AT_ONCE: Final = 20
_LOOK_SOON: Final = 0.001
_LOOK_LATE: Final = 0.01
_SLOWING: Final = 1.25
"""Mapped registers are polled at once several times after a device had work, then at growing intervals.

The interval is in seconds and grows by this factor.
"""
_CHECK: Final = 0.1
"""Seconds between two checks whether init ends, made while a caller sleeps. No fd reports this."""

DEVICES: Final = "dev/vfio"
HANDED_OUT: Final = ""


@dataclass(frozen=True)
class Mount:
    """A mounted FUSE file system. `place` is DEVICES, HANDED_OUT, or a path below /sys; `number` its st_dev."""

    place: str
    fuse: Fd
    number: int


@dataclass(frozen=True)
class DeviceSide:
    """The parts of a boot's devices. `Devices` takes ownership of the fds of the mounts and of the socket."""

    model: Vfio
    memory: DeviceMemory
    mounts: Sequence[Mount]
    opener: socket.socket
    """Leads to `opener.serve`. The directory there is the mount HANDED_OUT."""
    opener_tid: int
    can_map: bool
    ending: Callable[[], bool]
    """Returns whether init ends. It waits for its processes, and a sleeping one waits for the supervisor's answer."""

    def close(self) -> None:
        for mount in self.mounts:
            mount.fuse.close()
        self.opener.close()


class Devices:
    def __init__(self, side: DeviceSide, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._model = side.model
        self.memory = side.memory
        self._opener = side.opener
        self._opener_tid = side.opener_tid
        self._numbers = frozenset(mount.number for mount in side.mounts)
        self._files = OpenFiles(side.model, self.thread, self._look_from_now_on)
        self._trees: dict[int, FuseTree] = {}
        self._with_files: list[FuseTree] = []
        """Those whose files are the model's."""
        self._accepted: deque[tuple[FuseTree, Request]] = deque()
        """Read, not answered."""
        self._kept: dict[ModelFile, Fd] = {}
        self._sleeping: list[tuple[Blocked, Answer]] = []
        self._is_ending = side.ending
        self._next_check = 0.0
        self._ending = False
        self._looking = False
        self._idle_looks = _AT_ONCE
        self._next_look = 0.0
        for mount in side.mounts:
            files: FileSystem
            if mount.place == DEVICES:
                files = device_files = DeviceFiles(self._files, mount.number, self._wait)
                device_files.fuse = mount.fuse.fileno() if side.can_map else None
            elif mount.place == HANDED_OUT:
                files = self._handed_out = HandedOut(self._files, mount.number, self._wait)
                self._handed_out.fuse = mount.fuse.fileno() if side.can_map else None
            else:
                files = SysfsFiles(side.model, mount.place, self._wait)
            tree = FuseTree(mount.fuse, files)
            self._trees[tree.fileno()] = tree
            if isinstance(files, DeviceFiles):
                self._with_files.append(tree)
            if mount.place == HANDED_OUT:
                self._hidden = tree

    def filenos(self) -> Sequence[int]:
        """Returns the fds for which `serve` is to be run when they are readable."""
        return tuple(self._trees)

    def serve(self, fd: int) -> bool:
        """Answers the requests that wait on `fd`. Returns False, and closes it, when the file system is unmounted."""
        try:
            request = self._trees[fd].read()
        except Unmounted:
            tree = self._trees.pop(fd)
            self._with_files = [other for other in self._with_files if other is not tree]
            tree.close()
            return False
        if request is not None:
            self._accept(self._trees[fd], request)
        self._answer_accepted()
        return True

    def _accept(self, tree: FuseTree, request: Request) -> None:
        if request.is_release:
            tree.answer(request)
        else:
            self._accepted.append((tree, request))

    def _answer_accepted(self) -> None:
        """Answers the requests that are accepted or pending now, each after every release that is pending then.

        A file that was closed before the call has its release queued by now, but perhaps at another mount. Requests
        that follow are accepted and wait for the next run, as in `FuseServer.serve`.
        """
        self._drain()
        for _ in range(len(self._accepted)):
            tree, request = self._accepted.popleft()
            tree.answer(request)
            if self._accepted:
                self._drain()

    def _drain(self) -> None:
        for tree in self._with_files:
            with contextlib.suppress(Unmounted):
                while (request := tree.read()) is not None:
                    self._accept(tree, request)

    def _answer_opener(self) -> None:
        """Answers the opener's requests and queues all others.

        The opener works for a call that is being answered. The others wait for the end of that call.
        """
        with contextlib.suppress(Unmounted):
            while (request := self._hidden.read()) is not None:
                if request.tid == self._opener_tid:
                    self._hidden.answer(request)
                else:
                    self._accepted.append((self._hidden, request))

    def close(self) -> None:
        """Closes all files and mounts. Idempotent. Callers of a process that is left get ECONNABORTED or ENOTCONN."""
        for kept in self._kept.values():
            kept.close()
        self._kept.clear()
        self._opener.close()
        for tree in self._trees.values():
            tree.close()

    # -- what callers have open -------------------------------------------------------------------------------------

    def thread(self, tid: int, notification: Notification | None = None) -> DeviceThread:
        return DeviceThread(self._around, self, tid, notification)

    def is_ours(self, identity: Identity) -> bool:
        """Returns whether the file is on one of the mounts. A query to its file system would deadlock."""
        return identity[0] in self._numbers

    def file_of(self, identity: Identity) -> ModelFile | None:
        """Returns the model's file behind `identity`. Its reference count does not change."""
        return self._files.find(identity)

    def ioctl(self, file: ModelFile, command: int, argument: int, thread: Thread) -> int | Blocked:
        """Returns the model's answer to an ioctl of a thread that `thread` made."""
        assert isinstance(thread, DeviceThread), "made by `thread`"
        return self._model.ioctl(file, command, argument, thread)

    def install(self, file: ModelFile, add: Callable[[int], int]) -> int:
        """Returns the number of a new fd of `file` in the caller.

        `add` puts a duplicate of an fd into the caller and returns its number. Raises Errno.
        """
        kept = self._kept.get(file)
        if kept is None:
            self._handed_out.next_file = file
            try:
                kept = opener.open_file(
                    self._opener, file.link.replace(b"/", b"\\"), self._hidden.fileno(), self._answer_opener
                )
            finally:
                self._handed_out.next_file = None
            self._kept[file] = kept
        return add(kept.fileno())

    # -- sleeping callers -------------------------------------------------------------------------------------------

    def _wait(self, blocked: Blocked, answer: Answer) -> None:
        if self._ending:
            answer(Errno(errno.EINTR))
        else:
            self._sleeping.append((blocked, answer))

    def give_up(self) -> None:
        """Answers every sleeping caller with EINTR.

        All processes are being killed, and a sleeper dies only after its answer.
        """
        self._ending = True
        sleeping, self._sleeping = self._sleeping, []
        for _, answer in sleeping:
            answer(Errno(errno.EINTR))

    def settle(self) -> None:
        """Wakes callers that can continue and closes files that are no longer shared.

        To be run after every event, and when `timeout` has passed.
        """
        if self._accepted:
            self._answer_accepted()
        for file in [file for file in self._kept if not file.held_elsewhere]:
            self._kept.pop(file).close()
        if self._sleeping and time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + _CHECK
            if self._is_ending():
                self.give_up()
        if self._sleeping:
            self._sleeping = [sleeper for sleeper in self._sleeping if not self._wake(*sleeper)]
        if self._looking and time.monotonic() >= self._next_look:
            self._look()

    def _wake(self, blocked: Blocked, answer: Answer) -> bool:
        if not isinstance(blocked, Waiting):
            return False
        try:
            result = blocked.poll()
        except Errno as error:
            answer(error)
            return True
        if result is not None:
            answer(result)
        return result is not None

    # -- registers that a mapping stores to -------------------------------------------------------------

    def timeout(self) -> float | None:
        """Returns the seconds after which `settle` is due without any event; None: never."""
        due = [self._next_look] if self._looking else []
        if self._sleeping:
            due.append(self._next_check)
        works = any(isinstance(blocked, Waiting) and blocked.works for blocked, _ in self._sleeping)
        if self._accepted or works:
            return 0
        return max(min(due) - time.monotonic(), 0) if due else None

    def _look_from_now_on(self) -> None:
        self._looking = True
        self._next_look = time.monotonic()

    def _look(self) -> None:
        stores = self.memory.stores
        self._looking = self._model.poll()
        self._idle_looks = self._idle_looks + 1 if stores == self.memory.stores else 0
        pause = min(_LOOK_SOON * _SLOWING ** min(self._idle_looks - _AT_ONCE, 100), _LOOK_LATE)
        self._next_look = time.monotonic() + (0 if self._idle_looks < _AT_ONCE else pause)
