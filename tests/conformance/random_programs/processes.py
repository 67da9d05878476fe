"""The part of the author that opens, duplicates, closes and passes files, forks, and calls kexec and reboot in vain."""

from __future__ import annotations

import os
from typing import Any, Final

from luod.uapi import kexec as kexec_api
from tests.conformance.random_programs import garble
from tests.conformance.random_programs.beliefs import Device, Memory, Other, Process, Session, Socket
from tests.conformance.random_programs.memory import MemoryCalls
from tests.conformance.random_programs.sessions import SessionCalls

KINDS: Final = (
    "directory",
    "/proc/self/status",
    "/proc/self/ns/net",
    "/dev/null",
    "/dev/zero",
    "pipe, read end",
    "pipe, write end",
    "eventfd",
    "epoll",
    "inotify",
    "signalfd",
    "timerfd",
    "pidfd",
    "unix socket",
    "tmpfs file, linked",
)
MOST_CHILDREN: Final = 4
CROWDED: Final = 75
"""The number of files of one process above which more are closed than opened."""


class ProcessCalls(SessionCalls, MemoryCalls):
    """The calls that are neither LUO's nor memory's."""

    def other_file(self, process: Process) -> None:
        slot = self.slot("o")
        self.ask(process, "make", kind=self.chance.choice(KINDS), slot=slot)
        if not process.full:
            process.files[slot] = Other()

    def duplicate(self, process: Process) -> None:
        fd = self.any(process, Session, Session, Memory, Device)
        if fd is not None:
            slot = self.slot("d")
            self.ask(process, "dup", fd=fd, slot=slot)
            if fd in process.files and not process.full:
                process.files[slot] = process.files[fd]

    def reopen(self, process: Process) -> None:
        """Reopens a memory file only: for a session's it is a probe."""
        if found := self.memory(process):
            slot = self.slot("m")
            self.ask(process, "reopen", fd=found[0], flags=self.chance.choice((os.O_RDWR, os.O_RDONLY)), slot=slot)
            if not process.full:
                process.files[slot] = found[1]

    def close(self, process: Process) -> None:
        crowded = len(process.files) > CROWDED
        for _ in range(self.chance.choice((1, 2, 8)) if crowded else 1):
            # Sessions live longer than the rest, so that some are carried.
            fd = self.any(process, *((Session, Socket) if self.rarely(5) else (Memory, Other, Device)))
            if fd is not None:
                self.close_slot(process, fd)

    def socket(self, process: Process) -> None:
        ends = process.slots(Socket)
        if not ends or self.rarely(8):
            slots = [self.slot("e"), self.slot("e")]
            self.ask(process, "socketpair", slots=slots)
            if not process.full:
                one, other = Socket(), Socket()
                one.other, other.other = other, one
                process.files.update(zip(slots, (one, other), strict=True))
            return
        end = self.chance.choice(ends)
        socket = process.files[end]
        assert isinstance(socket, Socket)
        if socket.queue and self.rarely(2):
            slot = self.slot("v")
            self.ask(process, "receive_fd", over=end, slot=slot)
            if not process.full:
                process.files[slot] = socket.queue.pop(0)
        elif (fd := self.any(process, *((Device,) if self.rarely(15) else (Session, Memory)))) is not None:
            self.ask(process, "send_fd", over=end, fd=fd)
            if fd in process.files and any(socket.other is each for each in self.everywhere()):
                assert socket.other is not None
                socket.other.queue.append(process.files[fd])
                if self.rarely(2):
                    self.close_slot(process, fd)

    def child(self, process: Process) -> None:
        children = self.started[1:]
        if process.path:
            return
        if children and (len(children) >= MOST_CHILDREN or self.rarely(3)):
            child = self.chance.choice(children)
            if self.rarely(4) and (keep := child.slots(Session)):
                kept = self.chance.sample(keep, min(len(keep), 3))
                self.ask(child, "exec", argv=["/bin/sleep", "1000000"], keep=kept)
                self.held.extend(child.files[slot] for slot in kept)
            else:
                self.ask(process, "end", kid=child.path[0])
            self.started.remove(child)
            return
        name = self.slot("k")
        self.ask(process, "fork", kid=name)
        if process.full:
            return
        child = process.child(name)
        self.started.append(child)
        for device in child.slots(Device):
            if not self.rarely(4):
                self.close_slot(child, device)
        if self.several_uids and self.rarely(3):
            self.ask(child, "become", uid=1000)
            child.root = False

    def full(self, process: Process) -> None:
        """Uses up the fds, mostly for a short while only: without a free fd nothing works."""
        if process.full:
            return
        self.ask(process, "no_free_fd")
        process.full = True
        for step in self.chance.choices((self.create, self.retrieve_session, self.retrieve_fd, self.memfd), k=3):
            step(process)
        self.ask(process, "free_fds")
        process.full = False

    def kexec(self, process: Process) -> None:
        what = self.chance.randrange(8)
        if what == 0:
            self.ask(process, "load")
        elif what == 1:
            self.ask(process, "load", flags=kexec_api.KEXEC_FILE_UNLOAD)
        elif what == 2:
            self.ask(process, "kexec_load")
        elif what == 3:
            self.ask(process, "loaded")
        elif what == 4:
            self.ask(process, "refused_reboot", **garble.reboot(self.chance))
        else:
            fds = (-1, *process.slots(Other, Memory)[:3], *process.slots(Device, Session)[:2])
            wrong: tuple[dict[str, Any], ...] = (
                {"kernel": self.chance.choice(fds)},
                {"initrd": self.chance.choice(fds)},
                {"flags": 0x40},
                {"longer": 2000},
                {"ended": False},
            )
            chosen = self.chance.sample(wrong, self.chance.choice((1, 1, 2)))
            self.ask(process, "load", **{key: value for each in chosen for key, value in each.items()})
