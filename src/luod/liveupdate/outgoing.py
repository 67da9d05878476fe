"""A session created in this kernel, and its manifest of the files preserved in it.

VMMs use it in their own process: luod is not on the data path. `luod.manifest` has the format of the manifest; this
module has the memfds that store it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from _thread import allocate_lock
from itertools import count

from luod import manifest, memory, pci
from luod.errors import (
    BadInput,
    ComesBackSealed,
    FileNotPreservable,
    KernelRefused,
    ManifestError,
    SessionFrozen,
    TokenInUse,
    UnpreserveUnavailable,
    WrongDirection,
)
from luod.linux import Fd, HasFileno
from luod.liveupdate import calls, devices
from luod.liveupdate.ram import new_memfd
from luod.liveupdate.session import Session, check_text, check_token, is_incoming, number_of
from luod.manifest import Entry
from luod.static import TYPE_CHECKING, Any, Final
from luod.uapi import liveupdate as uapi
from luod.uapi.memfd import F_GET_SEALS, F_SEAL_EXEC

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_BLOCK: Final = 512
"""The unit of `st_blocks` in bytes."""


def unpreserve_available() -> bool:
    """Returns whether the machine declares UNPRESERVE_FD (`declared`): an emulated one with profile `document` does."""
    from luod.liveupdate import declared  # no start needs it

    return declared.profile() == "document"


_HOLES_HINT: Final = (
    "preserve a smaller file, or free memory: the kernel kills a process that preserves more holes than it can fill"
)


class OutgoingSession(Session):
    """A session created in this kernel: files are preserved in it.

    It keeps a manifest (`luod.manifest`) of the files preserved through this object. The next kernel's side learns
    names, sizes and the files to retrieve from it. One object for each session keeps it; others need `manifest=False`.
    """

    def __init__(self, fd: Fd, *, manifest: bool | Fd = True, limits: memory.Limits | None = None) -> None:
        """Takes ownership of `fd`, which came from CREATE_SESSION, here or in luod, of `manifest` and of `limits`.

        `manifest` may be a `new_manifest` of which another process has a duplicate. `limits` reports the memory that is
        left where this process cannot read its own limits.
        """
        super().__init__(fd, limits)
        self._frozen = False
        self._entries: dict[int, Entry] = {}
        self._names: set[str | None] = set()
        self._manifest: _ManifestWriter | None = None
        if manifest is not False:
            self._manifest = _ManifestWriter(self._preserve, None if manifest is True else manifest)
        self._about: dict[str, Any] = {}
        self._lock = allocate_lock()

    @property
    def contents(self) -> tuple[Entry, ...]:
        """Returns the files preserved through this object, in that order."""
        return tuple(self._entries.values())

    @property
    def about(self) -> dict[str, Any]:
        """Returns what was stored through this object by `annotate`."""
        return dict(self._about)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Returns the tokens of `contents`."""
        return tuple(self._entries)

    @property
    def has_manifest(self) -> bool:
        """Returns whether this object keeps the session's manifest."""
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
        """Preserves `file` under `token`, and returns the token: PRESERVE_FD.

        The caller owns the fd and may close it; the kernel holds the file. `name`, unique in the session, goes to the
        manifest, and the file can be retrieved by it. Without `token` the first free one is used, except 1, which is
        QEMU's (`luod.manifest`).

        Later stores into a memfd are carried too, by any process until the kexec. It can no longer grow, shrink or get
        holes (EPERM), its holes are filled now, and seals added from now on are not carried. After the kexec it has
        mode 0777 and is open for reading and writing.

        Raises NotEnoughMemory if its holes exceed free memory, since the kernel would kill the caller. Raises
        MemoryUnknown if the limits on memory cannot be read (see `IncomingSession.retrieve`). `check_memory=False`
        preserves the file without the check. The ioctl also migrates pages, which needs an unpredictable amount of
        memory: on a machine that is short of it the caller may still be killed (docs/hazards.md, H2).

        A VFIO device file must be of /dev/vfio/devices and bound to an iommufd (`luod.vfio`). Preserve it after the
        memory that it reaches. After the kexec it is reset and nothing is mapped. Its interrupts must be off at the
        kexec. The manifest keeps its PCI address, so that the next kernel's side can look for its driver. `device`
        gives the address where /proc does not show it, as for a file that was itself retrieved.

        Raises BadInput: file, token, name or device. Raises ComesBackSealed: after the kexec a memfd with F_SEAL_EXEC
        has every seal, so it is read-only; `allow_sealed=True` preserves it nevertheless. Raises TokenInUse: EEXIST,
        checked before the fd. Raises FileAlreadyPreserved: EBUSY. Raises FileNotPreservable: ENOENT, EFBIG, and EINVAL
        of a device; its hint names the rule. Raises SessionFrozen after `freeze`. Raises WrongDirection: EINVAL. Raises
        ManifestError: full. Raises KernelRefused: EBADF, ENOMEM, EMFILE, … After any error the session holds the same
        files as before, and so does the manifest.
        """
        fd = number_of(file)
        if token is None:
            if self._manifest is None or name is None:
                raise BadInput(
                    "a file without a token", hint="pass a token, or a name, which is stored in the manifest"
                )
            token = next(free for free in count() if free not in self._entries and free != manifest.CPR_STATE_TOKEN)
        self._check(token, name)
        if self._frozen:
            raise SessionFrozen(errno.EBUSY, calls.PRESERVE_FD.name, "the session is frozen")
        entry = _describe(fd, token, name, None if device is None else pci.check_address(device))
        if entry.seals & F_SEAL_EXEC and not allow_sealed:
            raise ComesBackSealed(f"fd {fd} has F_SEAL_EXEC, so it would come back immutable")
        holes = entry.size - entry.allocated if entry.kind == manifest.MEMFD else 0
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
                raise self._explained(error, fd) from None
            self._entries[token] = entry
            self._names.add(name)
        return token

    def annotate(self, about: Mapping[str, Any]) -> None:
        """Stores what the program says about its workload in the manifest: JSON, for people and for the next kernel.

        Members of a later call replace those of the same names. The kexec carries what was stored before it, also after
        the files were preserved. `IncomingSession.about` returns all of it. Raises BadInput: not JSON, longer than 32
        KiB, or the session has no manifest. Raises ManifestError: full. Raises the errors of `preserve`.
        """
        text = manifest.about_text(about)
        if self._manifest is None:
            raise BadInput("the session has no manifest to store it in")
        with self._lock:
            self._manifest.about(text)
            self._about |= about

    def unpreserve(self, token: int) -> None:
        """Stops preserving the file under `token`: UNPRESERVE_FD, which is in the kernel document and in no released
        kernel.

        Raises UnpreserveUnavailable: this machine does not declare it (see `unpreserve_available`); use `replace()` of
        the session from `luod.client` instead. Raises NoSuchToken: ENOENT. Raises WrongDirection: EINVAL.
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

    def freeze(self) -> None:
        """Does the work of the kexec for this session's files now: FREEZE, which is posted and in no released kernel.

        Afterwards nothing may be written to the preserved memory, and no file is preserved in the session any more. The
        only way back is to close the session. The kexec then has less to do: sessions are frozen in parallel.

        Raises PostedCallUnavailable: this machine does not declare it. Raises SessionFrozen: EBUSY. Raises
        WrongDirection: EINVAL. Raises KernelRefused: a file cannot be frozen; the session goes on as before.
        """
        from luod.liveupdate import posted  # no released kernel has it

        posted.freeze(self.fileno())
        self._frozen = True

    def close(self) -> None:
        """Closes this fd.

        If it is the session's last, its files are preserved no longer, memfds can be changed again, and the name is
        free.
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

    def _explained(self, error: KernelRefused, fd: int) -> KernelRefused:
        """Returns `error` of a PRESERVE_FD, with the rule that a device breaks as its hint."""
        if not isinstance(error, FileNotPreservable | WrongDirection):
            return error
        hint = devices.why_refused(fd, error.errno or 0)
        if not hint or (isinstance(error, WrongDirection) and is_incoming(self)):
            return error
        return FileNotPreservable(error.errno or 0, error.call, "this VFIO file cannot be preserved", hint=hint)

    def _preserve(self, fd: int, token: int) -> None:
        # Beyond an int's range no fd can be open, and the field cannot hold it.
        fd = fd if -(2**31) <= fd < 2**31 else -1
        argument = uapi.SESSION_PRESERVE_FD.pack(uapi.SESSION_PRESERVE_FD.size, fd, token)
        calls.PRESERVE_FD.make(self.fileno(), bytearray(argument))


def new_manifest() -> Fd:
    """Returns a memfd for the first part of a session's manifest; the caller owns it. Raises KernelRefused."""
    # It is only read after the kexec, so F_SEAL_EXEC does no harm, and `vm.memfd_noexec=2` allows nothing else.
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

    def about(self, text: bytes) -> None:
        self.make_room(len(text))
        self._store(self._log.about(text))

    def close(self) -> None:
        for part in self._parts.values():
            part.close()
        if self._first is not None:
            self._first.close()

    def make_room(self, length: int = 0) -> None:
        """Makes room for an `about` of `length` bytes, and for a further entry and its `dropped`.

        Every step that can fail is here, so it comes first.
        """
        token = self._log.part_wanted(length)
        if token is None:
            return
        part = new_manifest() if self._first is None else self._first.duplicate()
        try:
            self._preserve(part.fileno(), token)
        except TokenInUse as error:
            part.close()
            raise ManifestError(
                "another object keeps the manifest of this session",
                hint="preserve with the object that created the session, or pass manifest=False",
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


def _describe(fd: int, token: int, name: str | None, device: str | None) -> Entry:
    """Returns the manifest's entry for `fd` as it is now; an empty one for a closed fd, which the kernel refuses."""
    try:
        status = os.fstat(fd)
    except (OSError, OverflowError):
        return Entry(token, name, "unknown", 0, 0, 0)
    try:
        seals = fcntl.fcntl(fd, F_GET_SEALS)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise KernelRefused(error.errno or 0, "fcntl(F_GET_SEALS)") from None
        if devices.is_device(fd):
            return Entry(token, name, manifest.VFIO, 0, 0, 0, device or pci.address_of(fd))
        kind = "device" if stat.S_ISCHR(status.st_mode) else "unknown"
        if devices.is_iommufd(fd):
            kind = manifest.IOMMUFD
        return Entry(token, name, kind, status.st_size, status.st_blocks * _BLOCK, 0)
    return Entry(token, name, manifest.MEMFD, status.st_size, status.st_blocks * _BLOCK, seals)
