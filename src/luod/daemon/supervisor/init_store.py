"""Copies of the supervisor's fds in the fd store of PID 1 (FileDescriptorStoreMax= of luod's unit).

They survive the end of every process of luod. Through `systemctl kexec` PID 1 carries the sessions among them, and in
the next kernel luod gets these as incoming sessions. PID 1 drops what does not fit without a report (docs/hazards.md,
H8), so luod counts, and refuses what does not fit. Without such a store nothing is done here. Standard library only.

PID 1 stores an open file once, under the first of its names. A file with another name here is stored there as a small
memfd that has the first name (`_SAME`). Sessions are not compared: one has one open file, also one that is adopted, and
its name and direction here are the kernel's.

A PID 1 that does not answer costs one wait. From then on there is a fault: changes are noted and not sent, until
`heal`, which does not wait, has sent them and PID 1 has processed them. All such waits together are bounded: to 5 s
until a minute has passed without one, and to 0.25 s while guests are paused.

PID 1 closes what exceeds a maximum that is lowered while luod runs. Only a question to PID 1 shows that: serve asks,
and `counted` takes the answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from luod.daemon.supervisor import notify, protocol
from luod.linux import Fd, memfd, memory_identity, same_file
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.daemon.supervisor.notify import ServiceManager

_BOOT_CHARACTERS: Final = 8
"""Of the boot id, before each name: an outgoing session of an earlier boot is an incoming one of this."""
_SAME: Final = "same."
"""After it, before a name whose file is stored under another name."""
_NAME_BYTES: Final = 255
"""The maximum length of a name in PID 1's store."""
_SESSIONS: Final = (protocol.OUTGOING, protocol.INCOMING)
_NOT_YET: Final = float("inf")
_CLOSING_SECONDS: Final = 1.0
"""The time within which PID 1 closes a file that it has removed: a process of its own does that."""
TOTAL_SECONDS: Final = notify.BARRIER_SECONDS
BLACKOUT_SECONDS: Final = 0.25
_PROMPT_SECONDS: Final = 0.1
"""An answer within this time costs nothing of those."""
_LEAST_SECONDS: Final = 0.1
"""The wait where nothing of them is left."""
_REST_SECONDS: Final = 60.0
_OWN: Final = ("registry.", protocol.OUTGOING + protocol.REGISTRY_SESSION)
"""Is stored again first: without it the next luod knows no owner."""


class InitStore:
    """The names in PID 1's store, and its room."""

    def __init__(self, manager: ServiceManager, room: int, boot_id: str) -> None:
        """`room` is the maximum number of fds in the store, 0 without one."""
        self._manager = manager
        self._exists = bool(room)
        self._room = room
        self.boot_id = boot_id
        """Of this boot."""
        self._boot = boot_id.replace("-", "")[:_BOOT_CHARACTERS]
        self._files: dict[str, Fd] = {}
        """The supervisor's fds by their names."""
        self._stored: dict[str, str] = {}
        """Their names in PID 1's store."""
        self._same: dict[str, str] = {}
        """The name under which PID 1 has the file, of each name that has it too."""
        self._first: dict[tuple[int, int] | None, dict[str, int]] = {}
        """The fds of the other names, without sessions, by the identity of a memfd: a session may have a manifest, and
        there may be a thousand.
        """
        self._removed: dict[str, float] = {}
        """The sessions whose copies were removed, and when PID 1 had removed them."""
        self._sent: dict[str, bool] = {}
        """The names in PID 1's store that were changed since the last barrier, and whether they were removed first."""
        self._behind: dict[str, bool] = {}
        """Those that PID 1 may lack, or have too many."""
        self._barrier: Fd | None = None
        self._changes = 0
        """The number of changes so far: a count of another moment does not count."""
        self._short = 0
        """The number of fds that PID 1 lacked when it was asked last."""
        self._patience = TOTAL_SECONDS
        """The rest of it."""
        self._patience_in_blackout: float | None = None
        """None: guests run."""
        self._waited_at = 0.0
        """The time of the last wait that took long."""
        self.fault = ""
        """The reason for which PID 1 may lack a copy, or have one too many; "": it has processed all that was sent."""

    def recover(self, given: Mapping[str, Fd]) -> dict[str, Fd]:
        """Returns the fds from PID 1 by the names that the supervisor uses. Closes what this boot cannot use.

        `given` are those that luod was started with, without the listening sockets. Owned by the caller from now on;
        each must be open until it is removed.
        """
        same: dict[str, Fd] = {}
        for stored, fd in given.items():
            boot, _, name = stored.partition(".")
            if boot != self._boot and name.startswith(protocol.OUTGOING):
                # It keeps its name there: PID 1 stores a file once, so another name would need a removal first.
                name = protocol.INCOMING + name.removeprefix(protocol.OUTGOING)
            elif boot != self._boot:
                fd.close()
                self._send_removal(stored)
                continue
            elif name.startswith(_SAME):
                same[name.removeprefix(_SAME)] = fd
                continue
            self._stored[name] = stored
            self._files[name] = fd
            if not name.startswith(_SESSIONS):
                self._first.setdefault(memory_identity(fd), {})[name] = fd.fileno()
        first = {stored: name for name, stored in self._stored.items()}
        for name, noted in same.items():
            with noted:
                other = first.get(os.pread(noted.fileno(), _NAME_BYTES, 0).decode("utf-8", "replace"))
            stored = self._name_of(name, same=True)
            if other is None:
                self._send_removal(stored)
            else:
                self._stored[name], self._same[name] = stored, other
                self._files[name] = self._files[other].duplicate()
        return dict(self._files)

    @property
    def complete(self) -> bool:
        """Returns whether PID 1 has a copy of every fd."""
        return self._exists and not self.problem

    @property
    def problem(self) -> str:
        """Returns why PID 1 may lack a copy, or have one too many; "" if its store is as it should be."""
        if self._short:
            has, room = len(self._stored) - self._short, self._room
            return f"its store for luod's unit has {has} of {len(self._stored)} files (FileDescriptorStoreMax={room})"
        return self.fault

    @property
    def missing(self) -> int:
        """Returns the number of fds of which PID 1 may have no copy."""
        return self._short or len(self._behind.keys() & set(self._stored.values()))

    @property
    def size(self) -> int:
        """Returns the number of fds that PID 1 should have, 0 without a store."""
        return len(self._stored) if self._exists else 0

    @property
    def room(self) -> int:
        """Returns the number of fds that PID 1 takes, as far as that is known."""
        return self._room

    @property
    def changes(self) -> int:
        """Returns a number that grows with each change of the store."""
        return self._changes

    def has_room(self) -> bool:
        """Returns whether one more fd fits, or there is no store."""
        return not self._exists or len(self._stored) < self._room

    def counted(self, stored: int, room: int, changes: int) -> None:
        """Takes PID 1's answer: the number of fds in its store, and their maximum. `changes` is that of before the
        question: after another change, or while PID 1 has to catch up, the number tells nothing.

        What PID 1 lacks is stored again, by `heal`, as far as there is room.
        """
        if not self._exists:
            return
        self._room = room
        if changes != self._changes or self.fault:
            return
        self._short = max(0, len(self._stored) - stored)
        if self._short and stored < room:
            # It stores an open file once, so what it has is not changed by that. A note is another file each time.
            noted = {self._stored[name] for name in self._same}
            ordered = sorted(self._stored, key=lambda name: (not name.startswith(_OWN), not name.startswith(_SESSIONS)))
            self._behind = {self._stored[name]: self._stored[name] in noted for name in ordered}
            self.fault = self.problem

    def may_have(self, name: str) -> bool:
        """Returns whether PID 1 may still have a session open whose copy was removed."""
        return time.monotonic() < self._removed.get(name, 0.0) + _CLOSING_SECONDS

    def put(self, name: str, fd: Fd) -> None:
        """Stores a copy in place of any under this name. `settle` must follow. `fd` must be open until `remove`."""
        if self._exists:
            self.remove(name)
            self._files[name] = fd
            self._place(name)

    def failed(self, name: str, fd: Fd, reason: str) -> None:
        """Notes why `put` failed, as a fault: `heal` stores the copy."""
        self._files[name] = fd
        self._changed(self._stored.setdefault(name, self._name_of(name, same=name in self._same)), removed=False)
        self._note(reason)

    def remove(self, name: str) -> None:
        """Removes a copy. PID 1 closes it a moment later, or at the next `settle`, or a moment after that."""
        if name not in self._stored:
            return
        self._take_out(name)
        del self._files[name]
        if name.startswith(_SESSIONS):
            self._removed = {other: at for other, at in self._removed.items() if self.may_have(other)}
            self._removed[name] = _NOT_YET
        others = [other for other, first in self._same.items() if first == name]
        for other in others:
            self._take_out(other)
        for other in others:
            self._place(other)

    def settle(self) -> str:
        """Waits until PID 1 has done all that. Returns the reason of a failure, "" without one.

        With a fault, or nothing to wait for, it returns at once.
        """
        if self._sent and not self.fault:
            self._note(self._counted(self._manager.settle))
            if not self.fault:
                self._settled()
        return self.fault

    def blackout(self, *, lasts: bool) -> None:
        """Notes whether guests are paused."""
        self._patience_in_blackout = BLACKOUT_SECONDS if lasts else None

    def _wait(self) -> float:
        """Returns the longest wait for PID 1 now, in seconds."""
        if time.monotonic() - self._waited_at > _REST_SECONDS:
            self._patience = TOTAL_SECONDS
        left = self._patience if self._patience_in_blackout is None else self._patience_in_blackout
        return max(_LEAST_SECONDS, left)

    def _counted(self, call: Callable[[float], str]) -> str:
        """Makes a call that waits for PID 1 up to the seconds that it is given, and returns its result. A wait that
        took long is subtracted from what is left.
        """
        began = time.monotonic()
        reason = call(self._wait())
        now = time.monotonic()
        if now - began > _PROMPT_SECONDS:
            self._waited_at = now
            self._patience -= now - began
            if self._patience_in_blackout is not None:
                self._patience_in_blackout -= now - began
        return reason

    def heal(self) -> bool:
        """Sends what PID 1 may lack, or checks whether it has processed that, without a wait. Returns whether the fault
        is over; to be repeated until then.
        """
        if self._barrier is not None:
            if not self._manager.passed(self._barrier):
                return False
            self._barrier.close()
            self._barrier = None
            if not self._behind:
                self.fault = ""
                self._settled()
                return True
        names = {stored: name for name, stored in self._stored.items()}
        sent = []
        for stored, removed in self._behind.items():
            reason = self._manager.remove(stored, seconds=0.0) if removed else ""
            if not reason and stored in names:
                reason = self._send(names[stored], 0.0)
            if reason:
                break
            sent.append(stored)
        self._barrier, _reason = self._manager.barrier(seconds=0.0)
        if self._barrier is not None:
            for stored in sent:
                del self._behind[stored]
        return False

    def _place(self, name: str) -> None:
        """Stores the file under its name, or the name under which it is stored already."""
        fd = self._files[name]
        if not name.startswith(_SESSIONS):
            alike = self._first.setdefault(memory_identity(fd), {})
            first = same_file(fd, alike)
            if first is None:
                alike[name] = fd.fileno()
            else:
                self._same[name] = first
        stored = self._stored[name] = self._name_of(name, same=name in self._same)
        self._changed(stored, removed=False)
        if not self.fault:
            self._note(self._counted(lambda seconds: self._send(name, min(seconds, notify.SOCKET_SECONDS))))

    def _take_out(self, name: str) -> None:
        self._same.pop(name, None)
        if not name.startswith(_SESSIONS):
            identity = memory_identity(self._files[name])
            alike = self._first.get(identity, {})
            alike.pop(name, None)
            if not alike:
                self._first.pop(identity, None)
        self._send_removal(self._stored.pop(name))

    def _send(self, name: str, seconds: float) -> str:
        """Sends a file. Waits up to `seconds` for room in the socket."""
        stored = self._stored[name]
        if name not in self._same:
            return self._manager.store(stored, self._files[name].fileno(), seconds=seconds)
        first = self._stored[self._same[name]].encode()
        try:
            with memfd("luod-same", len(first), executable=False) as noted:
                os.pwrite(noted.fileno(), first, 0)
                return self._manager.store(stored, noted.fileno(), seconds=seconds)
        except OSError as error:
            return error.strerror or str(error)

    def _send_removal(self, stored: str) -> None:
        self._changed(stored, removed=True)
        if not self.fault:
            self._note(
                self._counted(lambda seconds: self._manager.remove(stored, seconds=min(seconds, notify.SOCKET_SECONDS)))
            )

    def _changed(self, stored: str, *, removed: bool) -> None:
        self._changes += 1
        changes = self._behind if self.fault else self._sent
        changes[stored] = removed or changes.pop(stored, False)

    def _note(self, reason: str) -> None:
        """Notes the result of a report: after a failure PID 1 may lack all that was sent since the last barrier."""
        if reason:
            self.fault = reason
            self._behind |= self._sent
            self._sent.clear()

    def _settled(self) -> None:
        self._sent.clear()
        now = time.monotonic()
        self._removed = {name: now if at == _NOT_YET else at for name, at in self._removed.items()}

    def _name_of(self, name: str, *, same: bool = False) -> str:
        return f"{self._boot}.{_SAME if same else ''}{name}"
