"""Preflight: reads what is to be loaded, off the event loop, and gathers every finding.

What was read is known by the file's identity, size and times of change, so that a second look is cheap and a file that
was written to after it was read is noticed (H19). Called by `luod.daemon.update`.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field

from luod import image
from luod.daemon.participants import Participants
from luod.daemon.preflight import next_kernel, state
from luod.daemon.preflight.findings import finding
from luod.daemon.preflight.next_kernel import NextKernel
from luod.daemon.preflight.running import IMAGE_MAX, Running, running
from luod.daemon.preflight.subject import Fingerprint, Subject
from luod.daemon.sessions import SessionKeeper
from luod.errors import ImageError, Refused
from luod.image import initrd
from luod.ipc.admin import Finding
from luod.linux import Fd, map_large_allocations


@dataclass
class _Read:
    """What was read of one subject's files."""

    fingerprint: tuple[Fingerprint, ...] = ()
    kernel: image.Kernel | None = None
    disks: dict[str, initrd.Initrd] = field(default_factory=dict)
    """By command line."""


class Preflight:
    """Made inside a running loop."""

    def __init__(self, sessions: SessionKeeper, participants: Participants) -> None:
        self._sessions = sessions
        self._participants = participants
        self._lock = asyncio.Lock()
        self._read = _Read()
        self._running: Running | None = None
        self._remembered: tuple[Fingerprint, ...] = ()

    async def check(self, subject: Subject, *, remember: bool = False) -> tuple[list[Finding], str | None]:
        """The findings, and the release of the next kernel where that can be read. `remember` the files for
        `still_the_same`.
        """
        # To its end, with fds of its own, also when the caller hangs up: a thread cannot be called off.
        task = asyncio.ensure_future(self._check(subject.duplicate(), remember))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _check(self, subject: Subject, remember: bool) -> tuple[list[Finding], str | None]:
        followers = self._participants.followers
        kinds = {file.kind for follower in followers for session in follower.sessions for file in session.files}
        rows, orphans = list(self._sessions.rows()), self._participants.orphans()
        held = self._sessions.held
        try:
            async with self._lock:
                findings, release, read = await asyncio.to_thread(self._about_image, subject, kinds)
                findings += await asyncio.to_thread(lambda: list(state.judge(rows, followers, orphans, held=held)))
                if remember:
                    self._remembered = read
        finally:
            subject.close()
        return findings, release

    def still_the_same(self, subject: Subject) -> None:
        """Refused: a file is not as it was when it was remembered."""
        if subject.fingerprint() != self._remembered:
            raise Refused(
                "the image or the initial RAM disk was written to after it was checked",
                hint="load it again: luoctl load",
            )

    def _about_image(
        self, subject: Subject, kinds: Collection[str]
    ) -> tuple[list[Finding], str | None, tuple[Fingerprint, ...]]:
        """In a thread; one at a time."""
        # Images are unpacked here, and what that takes is not to stay luod's.
        map_large_allocations()
        if self._running is None:
            # It does not change while it runs, except that debugfs may be mounted.
            now = running()
            self._running = None if now.assumed or now.scratch is None else now
        else:
            now = self._running
        findings: list[Finding] = []
        fingerprint: tuple[Fingerprint, ...] = ()
        try:
            fingerprint = subject.fingerprint()
            if fingerprint != self._read.fingerprint:
                self._read = _Read(fingerprint, image.read(_content(subject.kernel)))
            kernel = self._read.kernel
            assert kernel is not None
        except (ImageError, OSError) as error:
            self._read = _Read()
            unreadable = finding(
                "image-unreadable",
                f"the next kernel's image cannot be read: {_words(error)}",
                "nothing tells whether it takes over what is carried",
                error.hint if isinstance(error, ImageError) else "load another one",
            )
            return [unreadable], None, fingerprint
        disk = None
        if subject.initrd is not None and next_kernel.lacks_handlers(kernel, kinds):
            try:
                disk = self._disk(subject.initrd, subject.command_line)
            except (ImageError, OSError) as error:
                findings.append(
                    finding(
                        "initrd-unreadable",
                        f"the initial RAM disk cannot be looked into: {_words(error)}",
                        "a handler that is not built into the kernel may be in it",
                        "give the file that the boot loader would load",
                    )
                )
        size = 0 if subject.initrd is None else os.fstat(subject.initrd.fileno()).st_size
        following = NextKernel(kernel, subject.command_line, size, disk)
        findings += next_kernel.judge(following, now, kinds)
        return findings, kernel.contents.release, fingerprint

    def _disk(self, fd: Fd, command_line: str) -> initrd.Initrd:
        disks = self._read.disks
        if command_line not in disks:
            disks[command_line] = initrd.read(_content(fd), command_line)
        return disks[command_line]


def _content(fd: Fd) -> bytes:
    """The whole file, wherever its position is. ImageError, OSError."""
    found = os.fstat(fd.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise ImageError("this is not a regular file")
    if found.st_size > IMAGE_MAX:
        raise ImageError(f"the file has {found.st_size} bytes, more than any there is")
    # At once, as regular files can be: there is one copy of it.
    content = os.pread(fd.fileno(), found.st_size, 0)
    if len(content) != found.st_size:
        raise ImageError("the file changes while it is read")
    return content


def _words(error: ImageError | OSError) -> str:
    return error.message if isinstance(error, ImageError) else error.strerror or str(error)
