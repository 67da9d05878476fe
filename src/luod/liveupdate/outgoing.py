"""A session created in this kernel, and the manifest it keeps of what is preserved in it.

VMMs use it in their own context: luod is not on the data path. The format of the
manifest is `luod.manifest`'s; here are the memfds it is stored in.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable
from itertools import count
from typing import Final

from luod import linux, manifest, memory, pci
from luod.errors import (
    BadInput,
    ComesBackSealed,
    FileNotPreservable,
    KernelRefused,
    ManifestError,
    TokenInUse,
    UnpreserveUnavailable,
    WrongDirection,
)
from luod.linux import Fd, HasFileno
from luod.liveupdate import calls, devices
from luod.liveupdate.ram import new_memfd
from luod.liveupdate.session import Session, check_text, check_token
from luod.manifest import Entry
from luod.uapi import liveupdate as uapi

MEMFD: Final = "memfd"
"""The kind of a manifest's entry that is memory: the only one that has holes to fill."""
_BLOCK: Final = 512
"""What `st_blocks` counts, in bytes."""


def unpreserve_available() -> bool:
    """Whether this machine says it has UNPRESERVE_FD: an emulated one with profile `document` does, in its environment.

    An ioctl is never tried to find out: numbers get reused between kernels, and another verb would run (H25).
    """
    return os.environ.get("LUOEMU_PROFILE") == "document"


_HOLES_HINT: Final = "preserve a smaller file, or make room: the kernel kills who preserves more than it can fill"


class OutgoingSession(Session):
    """A session created in this kernel: files are preserved in it.

    It keeps a manifest (`luod.manifest`) of what was preserved through this object, so that the next kernel's side
    knows names, sizes and what is still to be retrieved. One object a session keeps it; others say `manifest=False`.
    """

    def __init__(self, fd: Fd, *, manifest: bool | Fd = True, limits: memory.Limits | None = None) -> None:
        """Takes ownership of `fd`, which came from CREATE_SESSION, here or in luod; of `manifest`, when that is a
        `new_manifest` that somebody else has a duplicate of; and of `limits`, which is asked how much memory is left
        where this process cannot read its own limits.
        """
        super().__init__(fd, limits)
        self._entries: dict[int, Entry] = {}
        self._names: set[str | None] = set()
        self._manifest: _ManifestWriter | None = None
        if manifest is not False:
            self._manifest = _ManifestWriter(self._preserve, None if manifest is True else manifest)
        self._lock = threading.Lock()

    @property
    def contents(self) -> tuple[Entry, ...]:
        """What was preserved through this object, in that order."""
        return tuple(self._entries.values())

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens of `contents`."""
        return tuple(self._entries)

    @property
    def has_manifest(self) -> bool:
        """Whether this object keeps the session's manifest."""
        return self._manifest is not None

    def preserve(
        self,
        file: int | HasFileno,
        token: int | None = None,
        *,
        name: str | None = None,
        allow_sealed: bool = False,
        check_memory: bool = True,
        device: str | None = None,
    ) -> int:
        """Preserves `file` under `token`: PRESERVE_FD. The fd stays the caller's and may be closed; the kernel holds
        the file. `name`, unique in the session, is for the manifest, and enough to retrieve by: without a token, the
        first free one is taken. Returns the token.

        What is stored into a memfd afterwards is carried too, by any process until the jump; but it can no longer
        grow, shrink or get holes (EPERM), its holes are filled now, and seals added from now on are not carried. It
        comes back with mode 0777, open for reading and writing.

        Holes that free memory would not fill are NotEnoughMemory, since the kernel would kill the caller over them;
        MemoryUnknown where the limits on memory cannot be read (see `IncomingSession.retrieve`).
        `check_memory=False` preserves the file without the check. The ioctl moves pages too, which takes an amount of
        memory that cannot be foreseen here: on a machine that is short of it the caller may still be killed (H2).

        A VFIO device file is the device's: from /dev/vfio/devices, bound to an iommufd (`luod.vfio`), after the memory
        it reaches. It comes back reset, with nothing mapped. Its interrupts must be off when the machine jumps. The
        manifest keeps its PCI address, so that the next kernel's side can look for its driver; `device` says it where
        /proc does not, as of a file that was itself retrieved.

        BadInput: token, name or device. ComesBackSealed: a memfd with F_SEAL_EXEC comes back with every seal set, so
        nobody could write to it; `allow_sealed=True` preserves it all the same. TokenInUse: EEXIST, looked at before
        the fd. FileAlreadyPreserved: EBUSY. FileNotPreservable: ENOENT, EFBIG, and EINVAL of a device; its hint names
        the rule. WrongDirection: EINVAL. ManifestError: full.
        NotEnoughMemory: as said. KernelRefused: EBADF, ENOMEM, EMFILE, … After any error the session holds what it
        held, and the manifest says so.
        """
        fd = file if isinstance(file, int) else _number(file)
        if token is None:
            if self._manifest is None or name is None:
                raise BadInput("a file without a token", hint="say a token, or a name, which goes to the manifest")
            token = next(free for free in count() if free not in self._entries)
        self._check(token, name)
        entry = _describe(fd, token, name, None if device is None else pci.check_address(device))
        if entry.seals & linux.F_SEAL_EXEC and not allow_sealed:
            raise ComesBackSealed(f"fd {fd} has F_SEAL_EXEC, so it would come back immutable")
        holes = entry.size - entry.allocated if entry.kind == MEMFD else 0
        if check_memory and holes > 0:
            left = memory.free(enough=holes, limits=self._limits)
            memory.require(holes, left, f"filling the holes of fd {fd}", hint=_HOLES_HINT)
        with self._lock:
            if self._manifest is not None and token not in self._entries:
                self._manifest.add(entry)
            try:
                self._preserve(fd, token)
            except KernelRefused as error:
                if self._manifest is not None and token not in self._entries:
                    self._manifest.drop(token)
                raise self._explained(error, fd, token) from None
            self._entries[token] = entry
            self._names.add(name)
        return token

    def unpreserve(self, token: int) -> None:
        """Lets go of the file under `token`: UNPRESERVE_FD, which the document names and no released kernel has.

        UnpreserveUnavailable: this machine does not say that it has it (see `unpreserve_available`); elsewhere make the
        session anew, `luod.client`'s `replace()`. NoSuchToken: ENOENT. WrongDirection: EINVAL.
        """
        if not unpreserve_available():
            raise UnpreserveUnavailable("this kernel has no UNPRESERVE_FD")
        check_token(token)
        with self._lock:
            if self._manifest is not None:
                self._manifest.make_room()
            argument = uapi.SESSION_UNPRESERVE_FD.pack(uapi.SESSION_UNPRESERVE_FD.size, 0, token)
            calls.UNPRESERVE_FD.make(self.fileno(), bytearray(argument))
            entry = self._entries.pop(token, None)
            if entry is None:
                return
            self._names.discard(entry.name)
            if self._manifest is not None:
                self._manifest.drop(token)

    def close(self) -> None:
        """Closes this fd. When it is the session's last, all it preserved is preserved no longer, memfds can be changed
        again, and the name is free.
        """
        super().close()
        if self._manifest is not None:
            self._manifest.close()

    def detach(self) -> Fd:
        fd = super().detach()
        if self._manifest is not None:
            self._manifest.close()
        return fd

    def _check(self, token: int, name: str | None) -> None:
        check_token(token)
        if self._manifest is not None and token in manifest.RESERVED_TOKENS:
            raise BadInput(f"token {token} is reserved for the manifest", hint="take another, or manifest=False")
        if name is None:
            return
        check_text(name, "a file's name")
        try:
            length = len(name.encode())
        except UnicodeEncodeError:
            length = 0
        if not 1 <= length <= manifest.NAME_MAX:
            raise BadInput(f"a file's name has 1 to {manifest.NAME_MAX} bytes of UTF-8: {name!r:.100}")
        if name in self._names:
            raise BadInput(f"the session holds a file named {name!r} already", hint="names are unique in a session")

    def _explained(self, error: KernelRefused, fd: int, token: int) -> KernelRefused:
        """`error` of a PRESERVE_FD, with the rule that a device breaks as its hint."""
        if not isinstance(error, FileNotPreservable | WrongDirection):
            return error
        hint = devices.why_refused(fd, error.errno or 0)
        if not hint or (isinstance(error, WrongDirection) and self._is_incoming(token)):
            return error
        return FileNotPreservable(error.errno or 0, error.call, "this VFIO file cannot be preserved", hint=hint)

    def _is_incoming(self, token: int) -> bool:
        """EINVAL of PRESERVE_FD is the direction's or the device's. The direction is looked at before the fd."""
        try:
            self._preserve(-1, token)
        except WrongDirection:
            return True
        except KernelRefused:
            return False
        raise AssertionError("fd -1 cannot have been preserved")

    def _preserve(self, fd: int, token: int) -> None:
        # Beyond an int's range no fd can be open, and the field could not hold it.
        fd = fd if -(2**31) <= fd < 2**31 else -1
        argument = uapi.SESSION_PRESERVE_FD.pack(uapi.SESSION_PRESERVE_FD.size, fd, token)
        calls.PRESERVE_FD.make(self.fileno(), bytearray(argument))


def new_manifest() -> Fd:
    """A memfd that will be the first part of a session's manifest; the caller owns it. KernelRefused."""
    # Only ever read when it is back, so F_SEAL_EXEC does no harm, and `vm.memfd_noexec=2` allows nothing else.
    part = new_memfd("luod-manifest", manifest.PART_SIZE, executable=False)
    try:
        os.pwrite(part.fileno(), manifest.new_part(), 0)
    except OSError as error:
        part.close()
        raise KernelRefused(error.errno or 0, "pwrite", "the manifest cannot be written to memory") from None
    except BaseException:
        part.close()
        raise
    return part


class _ManifestWriter:
    """Stores the log of `luod.manifest` in memfds that it preserves with `preserve(fd, token)`. Owns those memfds."""

    def __init__(self, preserve: Callable[[int, int], None], first: Fd | None) -> None:
        self._preserve = preserve
        self._first = first
        self._log = manifest.Log()
        self._parts: dict[int, Fd] = {}

    def add(self, entry: Entry) -> None:
        self.make_room()
        self._store(self._log.add(entry))

    def drop(self, token: int) -> None:
        self._store(self._log.drop(token))

    def close(self) -> None:
        for part in self._parts.values():
            part.close()
        if self._first is not None:
            self._first.close()

    def make_room(self) -> None:
        """Makes sure that a further entry and its `dropped` fit. What can fail is here, so it comes first."""
        token = self._log.part_wanted()
        if token is None:
            return
        part = new_manifest() if self._first is None else self._first.duplicate()
        try:
            self._preserve(part.fileno(), token)
        except TokenInUse as error:
            part.close()
            raise ManifestError(
                "somebody else keeps the manifest of this session",
                hint="preserve through the object that made the session, or say manifest=False",
            ) from error
        except BaseException:
            part.close()
            raise
        self._parts[token] = part
        if self._first is not None:
            self._first.close()
            self._first = None
        self._store(self._log.part_made(token))

    def _store(self, writes: tuple[manifest.Write, ...]) -> None:
        for write in writes:
            os.pwrite(self._parts[write.token].fileno(), write.data, write.offset)


def _number(file: HasFileno) -> int:
    """The fd of `file`. BadInput: it is closed."""
    try:
        return file.fileno()
    except ValueError as error:
        raise BadInput(f"the file is not open: {error}") from error


def _describe(fd: int, token: int, name: str | None, device: str | None) -> Entry:
    """The manifest's entry for `fd` as it is now. What is no open file gives an empty one: the kernel will say why."""
    try:
        status = os.fstat(fd)
    except (OSError, OverflowError):
        return Entry(token, name, "unknown", 0, 0, 0)
    try:
        seals = fcntl.fcntl(fd, linux.F_GET_SEALS)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise KernelRefused(error.errno or 0, "fcntl(F_GET_SEALS)") from None
        if devices.is_device(fd):
            return Entry(token, name, devices.KIND, 0, 0, 0, device or pci.address_of(fd))
        kind = "device" if stat.S_ISCHR(status.st_mode) else "unknown"
        return Entry(token, name, kind, status.st_size, status.st_blocks * _BLOCK, 0)
    return Entry(token, name, MEMFD, status.st_size, status.st_blocks * _BLOCK, seals)
