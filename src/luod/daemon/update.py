"""The operator's side: load the next kernel, and jump into it with every session that luod holds.

One update at a time, and a way back until reboot(2) does not return. luod jumps only into an image it loaded itself
(H19): it keeps the files, and loads them again right before. The interface these methods answer is `luod.ipc.admin`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any, Final

from luod import errors, kexec
from luod.daemon.custody import Custody
from luod.daemon.log import Log
from luod.daemon.registry import Image
from luod.daemon.sessions import SessionKeeper
from luod.daemon.takeover import Holdings, image_names
from luod.ipc.admin import (
    KernelRefused,
    NotAKernelImage,
    NotLoaded,
    NoUpdate,
    Progress,
    Refused,
    StatusReply,
    UpdateRunning,
    Wishes,
)
from luod.ipc.peer import Peer
from luod.linux import Fd
from luod.version import __version__

IDLE: Final = "idle"
PREPARING: Final = "preparing"
JUMPING: Final = "jumping"


class Updater:
    """Implements `luod.ipc.admin.Service`."""

    def __init__(self, holdings: Holdings, custody: Custody, sessions: SessionKeeper, log: Log) -> None:
        self._registry = holdings.registry
        self._fds = holdings.fds
        self._custody = custody
        self._sessions = sessions
        self._log = log
        self._state = IDLE
        self._loading = asyncio.Lock()

    async def status(self) -> StatusReply:
        states = Counter(state for _row, state in self._sessions.rows())
        image = self._registry.record.image
        return {
            "version": __version__,
            "state": self._state,
            "boot": self._registry.record.boot,
            "kernelLoaded": image is not None,
            "commandLine": None if image is None else image.command_line,
            "sessions": states["held"] + states["dropped"],
            "waiting": states["waiting"],
            "retrieved": states["retrieved"] + states["resumed"],
            "torn": states["torn"],
            "participants": 0,
            "generation": 0,
        }

    async def load_kernel(self, kernel: Fd, initrd: Fd | None, command_line: str) -> None:
        # To its end even when the operator hangs up: kernel, keep and registry must tell the same.
        await asyncio.shield(self._load_kernel(kernel, initrd, command_line))

    async def _load_kernel(self, kernel: Fd, initrd: Fd | None, command_line: str) -> None:
        new = [fd for fd in (kernel, initrd) if fd is not None]
        try:
            async with self._loading:
                if self._state != IDLE:
                    raise _update_running()
                await _load(kernel, initrd, command_line)
                old = self._registry.record.image
                image = Image(0 if old is None else old.number + 1, initrd is not None, command_line)
                for name, fd in zip(image_names(image), new, strict=True):
                    await self._custody.store(name, fd.fileno())
                self._registry.set_image(image)
                self._fds |= {name: fd.duplicate() for name, fd in zip(image_names(image), new, strict=True)}
                for name in () if old is None else image_names(old):
                    self._fds.pop(name).close()
                    await self._custody.remove(name)
        except errors.BadInput as error:
            raise Refused(message=error.message, hint="give a shorter command line, of text") from error
        except errors.KernelRefused as error:
            raise _refused_by_kernel(error) from error
        finally:
            for fd in new:
                fd.close()
        self._log("loaded", command_line=command_line, initrd=initrd is not None)

    async def update(self, peer: Peer, wishes: Wishes) -> AsyncGenerator[Progress, None]:
        if self._state != IDLE or self._loading.locked():
            raise _update_running()
        image = self._registry.record.image
        if image is None:
            raise NotLoaded(message="no kernel was loaded through luod", hint="load one first: luoctl load")
        self._state = PREPARING
        self._log("update", uid=peer.uid, pid=peer.pid, sessions=len(self._sessions.rows()))
        jump: asyncio.Task[None] | None = None
        try:
            yield _progress(PREPARING)
            await self._sessions.close_for_update()
            self._refuse_losses()
            await _load(self._fds[image_names(image)[0]], self._initrd(image), image.command_line)
            try:
                await asyncio.to_thread(self._registry.sync)
            except OSError as error:
                raise Refused(
                    message=f"the registry cannot be written: {error}", hint="see the state directory of luod"
                ) from error
            self._state = JUMPING
            yield _progress(JUMPING)
            jump = asyncio.ensure_future(asyncio.to_thread(kexec.jump))
            await asyncio.shield(jump)
        except errors.KernelRefused as error:
            self._log.error("update-failed", error=error)
            raise _refused_by_kernel(error) from error
        finally:
            if jump is None or jump.done():
                self._over()
            else:  # the operator hung up; if the kernel refuses the jump, nobody else is left to see it
                jump.add_done_callback(self._refused_unseen)

    async def abort(self, peer: Peer) -> None:
        raise NoUpdate(message="no update is under way", hint="")

    def _initrd(self, image: Image) -> Fd | None:
        return self._fds[image_names(image)[1]] if image.initrd else None

    def _refuse_losses(self) -> None:
        left = [row.name for row, _state in self._sessions.rows() if row.direction == "incoming"]
        if left:
            listed = ", ".join(left[:5]) + (", …" if len(left) > 5 else "")
            raise Refused(
                message=f"incoming sessions are not finished, and no kernel carries them on: {listed}",
                hint="have them finished and released by their owners, or release them as given up",
            )

    def _over(self) -> None:
        self._state = IDLE
        self._sessions.open_again()

    def _refused_unseen(self, jump: asyncio.Task[None]) -> None:
        if not jump.cancelled():
            self._log.error("update-failed", error=jump.exception())
        self._over()


def _progress(state: Any) -> Progress:
    return Progress(state=state, update="", generation=0, secondsLeft=None, participants=[], torn=[], reason=None)


async def _load(kernel: Fd, initrd: Fd | None, command_line: str) -> None:
    """Off the loop: an initrd of hundreds of MiB takes the kernel its time."""
    await asyncio.to_thread(kexec.load, kernel, initrd, command_line)


def _update_running() -> UpdateRunning:
    return UpdateRunning(message="a live update is under way", hint="wait for it to end")


def _refused_by_kernel(error: errors.KernelRefused) -> NotAKernelImage | KernelRefused:
    if isinstance(error, errors.NotAKernelImage):
        return NotAKernelImage(message=error.message, hint=error.hint)
    return KernelRefused(
        call=error.call, errno=error.errno, meaning=error.meaning, message=error.message, hint=error.hint
    )
