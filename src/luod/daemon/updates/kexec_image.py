"""The image for the kexec of an update: loading, keeping and checking it.

luod starts only an image that it loaded itself (docs/hazards.md, H19): it loads the image again when an update begins,
and the kernel's count of loads shows whether another process has loaded one since. The supervisor holds the files, so
that a later serve can load them. `luod.daemon.preflight` finds its problems. `luod.daemon.updates.stages` decides when
to start it.
"""

from __future__ import annotations

import asyncio
import os
from functools import cached_property

from luod import errors, kexec
from luod.daemon.completion import completed
from luod.daemon.preflight.subject import Fingerprint, Subject, same_contents
from luod.daemon.replies import update_running
from luod.daemon.store.fd_names import image_names
from luod.daemon.store.schema import Image
from luod.errors import Refused
from luod.ipc.errors import NotLoaded
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from luod.daemon.log import Log
    from luod.daemon.preflight.check import Checked, Preflight
    from luod.daemon.preflight.rules import Moment
    from luod.daemon.run_state import Run
    from luod.daemon.sessions.service import SessionService
    from luod.daemon.store.recovery import Holdings
    from luod.daemon.updates.participants import Participants
    from luod.ipc.types.admin import Finding
    from luod.ipc.types.phases import Way
    from luod.linux import Fd


class KexecImage:
    """Owns nothing: the supervisor has the files. Made inside a running loop."""

    def __init__(
        self, holdings: Holdings, sessions: SessionService, participants: Participants, run: Run, log: Log
    ) -> None:
        self._registry = holdings.registry
        self._fds = holdings.fds
        self._sessions = sessions
        self._participants = participants
        self._run = run
        self._log = log
        self._loading = asyncio.Lock()
        self._count: int | None = None
        """The kernel's count right after our load; None if it does not count, or another process loaded meanwhile."""
        self._read: tuple[Fingerprint, ...] = ()
        """The files that our load read; () if this serve has loaded none."""

    @cached_property
    def _preflight(self) -> Preflight:
        # serve's start does not need the readers of images, and is part of the blackout.
        from luod.daemon.preflight.check import Preflight

        return Preflight(self._sessions, self._participants, self._registry, self._fds)

    async def load(
        self, kernel: Fd, initrd: Fd | None, command_line: str, *, ignore_findings: Collection[str] = ()
    ) -> bool:
        """Loads an image. The fds are closed. Returns False if it is the loaded one: then nothing is changed.

        Raises Refused: no kernel can use the initial RAM disk, which `ignore_findings` may name. Raises KernelRefused.
        """
        return await completed(self._load(kernel, initrd, command_line, ignore_findings))

    async def _load(self, kernel: Fd, initrd: Fd | None, command_line: str, ignore_findings: Collection[str]) -> bool:
        new = [fd for fd in (kernel, initrd) if fd is not None]
        try:
            async with self._loading:
                if self._run.busy:
                    raise update_running(self._run.state)
                given = Subject(kernel, initrd, command_line)
                if initrd is not None:
                    await self._require_usable(given, ignore_findings)
                old = self._registry.rest.image
                if old is not None and await asyncio.to_thread(self._has_loaded, given):
                    return False
                self._count, self._read = await asyncio.to_thread(_load, given)
                image = Image(0 if old is None else old.number + 1, initrd is not None, command_line)
                files = dict(zip(image_names(image), new, strict=True))
                await self._fds.store(files, lambda: self._registry.set_image(image))
                if old is not None:
                    await self._fds.drop(*image_names(old))
        except errors.BadInput as error:
            raise Refused(
                message=error.message, hint="give a shorter command line without control characters"
            ) from error
        except errors.NotAKernelImage as error:
            raise await asyncio.to_thread(_named, error, kernel) from error
        finally:
            for fd in new:
                fd.close()
        self._log("loaded", command_line=command_line, initrd=initrd is not None)
        return True

    async def unload(self) -> bool:
        """Unloads the image from the kernel, also that of another process, and forgets the files. Returns whether there
        was anything to do. Raises KernelRefused.
        """
        return await completed(self._unload())

    async def _unload(self) -> bool:
        async with self._loading:
            if self._run.busy:
                raise update_running(self._run.state)
            old, loaded = self._registry.rest.image, await asyncio.to_thread(kexec.loaded)
            if loaded:
                await asyncio.to_thread(kexec.unload)
            self._count, self._read = None, ()
            if old is not None:
                self._registry.set_image(None)
                await self._fds.drop(*image_names(old))
        if loaded or old is not None:
            self._log("unloaded")
        return loaded or old is not None

    def _has_loaded(self, given: Subject) -> bool:
        """Returns whether the kernel certainly has an image of these files' contents. For a thread."""
        loaded = self._loaded()
        return (
            self._count is not None
            and not self.replaced
            and loaded.command_line == given.command_line
            and loaded.fingerprint() == self._read
            and same_contents(loaded, given)
        )

    async def _require_usable(self, subject: Subject, ignore_findings: Collection[str]) -> None:
        """Raises Refused: the next kernel cannot use its initial RAM disk. kexec_file_load accepts any file as one."""
        from luod.daemon.preflight.findings import refuse, require_names, with_ignored

        require_names(ignore_findings)
        found = (await self._preflight.check(subject, "direct")).findings
        refuse(with_ignored((each for each in found if each.name == "initrd-unusable"), ignore_findings))

    async def check(self, kernel: Fd | None, initrd: Fd | None, command_line: str | None, way: Way) -> Checked:
        """Checks these files, or, without a kernel, the loaded ones.

        The caller owns the fds. Raises NotLoaded.
        """
        if kernel is not None:
            return await self._preflight.check(Subject(kernel, initrd, command_line or ""), way)
        async with self._loading:
            return await self._preflight.check(self._loaded(), way)

    async def look(self, way: Way) -> list[Finding]:
        """Returns the findings about the loaded image, before an update into it. Raises NotLoaded.

        No other image is loaded meanwhile, and `load_again` uses no other, so that the checked image is the one that is
        started (docs/hazards.md, H19).
        """
        async with self._loading:
            return (await self._preflight.check(self._loaded(), way, remember=True)).findings

    async def load_again(self) -> None:
        """Loads the image again, in a thread: an initrd of hundreds of MiB takes the kernel some time. Raises
        KernelRefused.

        It waits for an earlier LoadKernel, and takes the image of that moment.
        """
        async with self._loading:
            self._count, self._read = await asyncio.to_thread(_load, self._loaded())

    @property
    def count(self) -> int | None:
        """Returns the kernel's count of loads right after luod's, None if it is unknown."""
        return self._count

    @property
    def counted(self) -> bool:
        """Returns whether `replaced` sees every load."""
        return self._count is not None

    @property
    def replaced(self) -> bool:
        """Returns whether another process has loaded or unloaded an image since, as far as the kernel counts that."""
        left = kexec.loads_left()
        return left is not None and left != self._count

    async def quiet(self) -> None:
        """Returns when no check reads files any more."""
        await self._preflight.quiet()

    def certain(self, moment: Moment) -> list[Finding]:
        """Returns the findings about the image of `look`, from the facts at this moment of an update.

        Raises Refused: a file was changed since.
        """
        return self._preflight.certain(self._loaded(loads=0), moment)

    def _loaded(self, *, loads: int = 1) -> Subject:
        image = self._registry.rest.image
        if image is None:
            raise NotLoaded(
                message="no kernel was loaded through luod",
                hint="run `luoctl load` first, or give --kernel FILE",
            )
        names = image_names(image)
        initrd = self._fds[names[1]] if image.initrd else None
        return Subject(self._fds[names[0]], initrd, image.command_line, loads)


def _load(subject: Subject) -> tuple[int | None, tuple[Fingerprint, ...]]:
    """Loads an image. Returns the kernel's count of loads afterwards, None as `KexecImage._count`, and the files'
    fingerprints. For a thread.
    """
    before, read = kexec.count_loads(), subject.fingerprint()
    kexec.load(subject.kernel, subject.initrd, subject.command_line)
    after = kexec.loads_left()
    return after if before is not None and after == before - 1 else None, read


def _named(error: errors.NotAKernelImage, kernel: Fd) -> errors.NotAKernelImage:
    """Returns `error` with the kind of the file, if it is known."""
    from luod.image import bzimage, other_kernels

    try:
        found = os.pread(kernel.fileno(), other_kernels.LOOKED_AT, 0)
    except OSError:
        return error
    what, remedy = ("", "") if bzimage.has_header(found) else other_kernels.describe(found, whole=False)
    if not what:
        return error
    return errors.NotAKernelImage(error.errno or 0, error.call, f"{error.meaning}: it is {what}", hint=remedy)
