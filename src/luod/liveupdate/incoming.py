"""A session of the previous kernel: its files are retrieved, then it is finished.

VMMs use it in their own process, without luod. Calls that can lose data are refused before the kernel is asked: a
retrieve without enough memory (docs/hazards.md, H1), and a FINISH that would drop files.
"""

from __future__ import annotations

import errno
import os

from luod import manifest, memory
from luod.errors import (
    BadInput,
    ContentsUnknown,
    FinishRefused,
    KernelRefused,
    ManifestError,
    NoSuchToken,
    NotRetrieved,
    RetrieveFailed,
    TargetRefused,
    VfioDeviceNotBound,
    WrongDirection,
)
from luod.linux import Fd
from luod.liveupdate import calls
from luod.liveupdate.session import Session, check_token, number_of
from luod.static import TYPE_CHECKING, Any, Final
from luod.uapi import liveupdate as uapi

if TYPE_CHECKING:
    from collections.abc import Iterable

    from luod.linux import HasFileno
    from luod.manifest import Entry

_UNREADABLE: Final = (ManifestError, RetrieveFailed)
"""A manifest that cannot be retrieved any more. The files beside it may still be."""


class IncomingSession(Session):
    """A session of the previous kernel. It ends with its last fd, as if finished (see `close`)."""

    def __init__(self, fd: Fd, *, limits: memory.Limits | None = None) -> None:
        """Takes ownership of `fd`, which came from RETRIEVE_SESSION, here or in luod, and of `limits`.

        `limits` reports the memory that is left where this process cannot read its own limits.
        """
        super().__init__(fd, limits)
        self._retrieved: set[int] = set()
        self._lost: dict[int, int] = {}
        """Tokens of which RETRIEVE_FD failed for good, with the errno."""
        self._absent: set[int] = set()
        self._contents: tuple[Entry, ...] | None = None
        self._about: dict[str, Any] = {}
        self._manifest_read = False
        self._index: dict[int | str, Entry] = {}
        self._finished = False

    @property
    def contents(self) -> tuple[Entry, ...] | None:
        """Returns the files that the session held at the kexec, from its manifest; None without one, or if finished.

        It is read once, by retrieving the manifest, 64 KiB a part. Raises ManifestError: damaged, or of an unknown
        format. Raises the errors of `retrieve`.
        """
        self._read_manifest()
        return self._contents

    @property
    def about(self) -> dict[str, Any]:
        """Returns what the program said about its workload by `OutgoingSession.annotate`; {} without any.

        It is read once, and raises, as `contents`. It is another program's word: check it.
        """
        self._read_manifest()
        return self._about

    @property
    def finished(self) -> bool:
        """Returns whether `finish` was done through this object; see `holds` for other processes'."""
        return self._finished

    def retrieve(
        self,
        file: int | str | None = None,
        *,
        name: str | None = None,
        size: int | None = None,
        check_memory: bool = True,
        check_driver: bool = True,
        into: int | HasFileno | None = None,
    ) -> Fd:
        """Retrieves the file with this token, or this name in the manifest: RETRIEVE_FD. The caller owns the fd.

        A name can be passed as `name`, too. Repeated for the same file, it returns another fd of the same open file
        description, until FINISH. A memfd has its contents, size, position and seals. It is open for reading and
        writing, has mode 0777, is close-on-exec and owned by root. It can be changed at once. The fd stays valid after
        FINISH and close.

        Memory is checked first, since a failed RETRIEVE_FD is final and frees the data (docs/hazards.md, H1). Raises
        NotEnoughMemory when the file's size, from the manifest or `size` in bytes, is more than the cgroups and strict
        overcommit leave to this process. Raises MemoryUnknown when those limits cannot be read, as in a chroot without
        /proc or without the cgroup file system; a session from luod asks luod then. A file of unknown size is not
        checked. `check_memory=False` retrieves the file without the check. Other processes may take the memory between
        the check and the call: retrieve before starting anything else in the cgroup.

        A VFIO device needs its driver before: otherwise the ioctl fails for good, and the session can never be
        finished. So the manifest's devices are looked up in /sys first: raises VfioDeviceNotBound, and nothing is lost.
        `check_driver=False` retrieves without this check; it is also skipped where /sys shows no devices at all. The fd
        answers after `luod.vfio.bind`. Until FINISH the device cannot be opened in another way.

        A file of a tmpfs is retrieved `into` an empty file of a tmpfs, open for writing, and the fd is one of that.
        This is posted and in no released kernel. Raises PostedCallUnavailable: this machine does not declare it. Raises
        TargetRefused: `into` is missing or does not fit; nothing is lost, try again.

        Raises BadInput: no such name in the manifest, or `into` is no file. Raises NoSuchToken: ENOENT, also after
        FINISH. Raises WrongDirection: EINVAL. Raises RetrieveFailed: the file is lost. Raises KernelRefused: EMFILE,
        ENFILE; nothing is lost, try again.
        """
        if (file is None) == (name is None):
            raise BadInput("retrieve takes a token or a name", hint="retrieve(7), or retrieve(name='ram')")
        file = name if file is None else file
        assert file is not None
        if not isinstance(file, str):
            check_token(file)
        # A token needs the manifest only for its size.
        entry = self._entry(file) if isinstance(file, str) or check_memory or check_driver else None
        token = entry.token if entry is not None else file
        assert isinstance(token, int)
        if check_memory and token not in self._retrieved:
            needed = max(size or 0, entry.size if entry is not None else 0)
            if needed:
                left = memory.chargeable(enough=needed, limits=self._limits)
                memory.require(needed, left, f"retrieving {file!r}")
        if check_driver and token not in self._retrieved:
            address = entry.device if entry is not None else None
            if address is not None and _is_unbound(address):
                raise VfioDeviceNotBound(f"no VFIO driver has the device {address} of {file!r}", address=address)
        return self._retrieve(token) if into is None else self._retrieve_into(token, into)

    def unretrieved(self, tokens: Iterable[int] | None = None) -> tuple[int, ...]:
        """Returns the tokens of the manifest and of `tokens` that were not retrieved through this object: FINISH drops
        them.

        Raises ContentsUnknown: there is no manifest, and no `tokens`. Raises ManifestError, RetrieveFailed: it cannot
        be read, and there are no `tokens`.
        """
        held: dict[int, None] = dict.fromkeys(tokens or ())
        try:
            contents = self.contents
        except _UNREADABLE:
            if tokens is None:
                raise
            contents = ()
        if contents is None and tokens is None:
            raise ContentsUnknown("the session has no manifest, so what finishing it would drop is not known")
        held |= dict.fromkeys(entry.token for entry in contents or ())
        return tuple(token for token in held if token not in self._retrieved and token not in self._absent)

    def finish(self, *, discard: bool = False, tokens: Iterable[int] | None = None) -> None:
        """Finishes the session: FINISH. Idempotent.

        Files that were not retrieved are dropped, which frees their memory. Retrieved ones belong to the caller alone.
        The fd stays open and answers GET_NAME; close it too.

        Linux 7.3 drops an unretrieved memfd silently, so this method refuses to, on every kernel. The manifest lists
        the files; `tokens` are added to it. Raises NotRetrieved, ContentsUnknown, ManifestError as `unretrieved`;
        nothing was changed. `discard=True` skips this check.

        Raises FinishRefused: EBUSY. In profile `document` any file is unretrieved; or a device was not retrieved, or is
        not bound to an iommufd. The message names it. FINISH is all or nothing: nothing was finished. Raises
        WrongDirection: EINVAL.
        """
        if self._finished:
            return
        if not discard:
            dropped = self.unretrieved(tokens)
            if dropped:
                listed = ", ".join(str(token) for token in dropped[:10]) + (", …" if len(dropped) > 10 else "")
                hint = next((_why_lost(self._lost[token]) for token in dropped if token in self._lost), "")
                raise NotRetrieved(f"finishing would drop tokens {listed}", tokens=dropped, hint=hint)
        try:
            calls.FINISH.make(self.fileno(), bytearray(uapi.SESSION_FINISH.pack(uapi.SESSION_FINISH.size, 0)))
        except FinishRefused as error:
            raise self._explained(error) from None
        self._finished = True

    def _explained(self, error: FinishRefused) -> FinishRefused:
        """Returns `error` of a FINISH with the names of the devices that it waits for, from the manifest."""
        waiting = [said for entry in self._index_of_devices() if (said := self._waits_for(entry))]
        hint = next(map(_why_lost, self._lost.values()), "")
        if not waiting:
            return FinishRefused(error.errno or 0, error.call, error.meaning, hint=hint)
        return FinishRefused(error.errno or 0, error.call, "; ".join(waiting), hint=hint)

    def _index_of_devices(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self._contents or () if entry.kind == manifest.VFIO)

    def _waits_for(self, entry: Entry) -> str:
        """Returns why FINISH waits for a device; "" if it does not, or if that is not known."""
        named = f"the device {entry.device or 'of unknown address'} (token {entry.token})"
        if entry.token in self._lost:
            return f"{named} could not be retrieved ({errno.errorcode.get(self._lost[entry.token], 'error')})"
        if entry.token not in self._retrieved:
            return f"{named} is not retrieved"
        try:
            again = self._retrieve(entry.token)  # another fd of the same file
        except KernelRefused:
            return ""
        with again:
            from luod.liveupdate import devices

            return "" if devices.is_bound(again.fileno()) else f"{named} is not bound to an iommufd"

    def holds(self, token: int = manifest.MANIFEST_TOKEN) -> bool:
        """Returns whether the kernel has the file under `token`.

        For a token that was preserved, False means that some process finished the session, which the holder of a
        duplicate cannot see otherwise (docs/hazards.md, H10). The call retrieves the file, and its memory is charged to
        this process; a manifest is small. It reads no contents, and `finish` does not take the file for retrieved,
        since the caller has no fd of it. Raises KernelRefused, and for files other than a manifest the errors of
        `retrieve`.
        """
        retrieved = token in self._retrieved
        try:
            (self._retrieve if token in manifest.RESERVED_TOKENS else self.retrieve)(token).close()
        except NoSuchToken:
            return False
        if not retrieved:
            self._retrieved.discard(token)
        return True

    def close(self) -> None:
        """Closes this fd.

        If it is the session's last, that is a FINISH: unretrieved files and the name are lost for good.

        `with` does the same when an exception leaves it. Hold a duplicate where that matters.
        """
        super().close()

    def _entry(self, file: int | str) -> Entry | None:
        try:
            self._read_manifest()
        except _UNREADABLE:
            if isinstance(file, str):
                raise
            return None
        entry = self._index.get(file)
        if entry is None and isinstance(file, str):
            raise BadInput(f"the manifest has no file {file!r}", hint="see `contents`")
        return entry

    def _retrieve(self, token: int) -> Fd:
        argument = bytearray(uapi.SESSION_RETRIEVE_FD.pack(uapi.SESSION_RETRIEVE_FD.size, -1, token))
        try:
            calls.RETRIEVE_FD.make(self.fileno(), argument)
        except NoSuchToken:
            self._absent.add(token)
            raise
        except RetrieveFailed as error:
            code = error.errno or 0
            self._lost[token] = code
            raise RetrieveFailed(code, error.call, error.meaning, hint=_why_lost(code)) from None
        except WrongDirection:
            from luod.liveupdate import posted  # on a released kernel EINVAL has one meaning

            if posted.available():
                raise TargetRefused(errno.EINVAL, calls.RETRIEVE_FD.name, "a file of a tmpfs needs `into`") from None
            raise
        self._retrieved.add(token)
        return Fd(uapi.SESSION_RETRIEVE_FD.unpack(argument)[1])

    def _retrieve_into(self, token: int, target: int | HasFileno) -> Fd:
        from luod.liveupdate import posted  # no released kernel has it

        fd = Fd(posted.retrieve_into(self.fileno(), token, number_of(target)))
        self._retrieved.add(token)
        return fd

    def _read_manifest(self) -> None:
        if self._manifest_read:
            return
        reading = manifest.read_all(self._manifest_part)
        if reading is not None:
            self._contents, self._about = reading.files, reading.about
        self._manifest_read = True
        for entry in self._contents or ():
            self._index[entry.token] = entry
            if entry.name is not None:
                self._index.setdefault(entry.name, entry)

    def _manifest_part(self, token: int) -> bytes | None:
        # If a limit is not known the manifest is read nevertheless: it is small, and not a file of the workload.
        left = memory.known(memory.chargeable(enough=manifest.PART_SIZE))
        memory.require(manifest.PART_SIZE, left, "reading the manifest")
        try:
            part = self._retrieve(token)
        except NoSuchToken:
            return None
        with part:
            return os.pread(part.fileno(), manifest.PART_SIZE, 0)


# `devices` is loaded for a workload with devices only: most are restored without.


def _is_unbound(address: str) -> bool:
    from luod.liveupdate import devices

    return devices.is_unbound(address)


def _why_lost(code: int) -> str:
    from luod.liveupdate import devices

    return devices.lost(code)
