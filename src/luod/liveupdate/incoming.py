"""A session of the kernel before: its files are retrieved, then it is finished.

VMMs use it in their own context, without luod. What can lose data here is refused
before the kernel is asked: memory that is not there (H1), and files that FINISH would drop.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Final

from luod import manifest, memory, pci
from luod.errors import (
    BadInput,
    ContentsUnknown,
    FinishRefused,
    KernelRefused,
    ManifestError,
    NoSuchToken,
    NotRetrieved,
    RetrieveFailed,
    VfioDeviceNotBound,
)
from luod.linux import Fd
from luod.liveupdate import calls, devices
from luod.liveupdate.session import Session, check_token
from luod.manifest import Entry
from luod.uapi import liveupdate as uapi

_UNREADABLE: Final = (ManifestError, RetrieveFailed)
"""A manifest that will not come any more. The files beside it still may."""


class IncomingSession(Session):
    """A session of the kernel before. It dies with its last fd, as if finished (see `close`)."""

    def __init__(self, fd: Fd, *, limits: memory.Limits | None = None) -> None:
        """Takes ownership of `fd`, which came from RETRIEVE_SESSION, here or in luod, and of `limits`, which is asked
        how much memory is left where this process cannot read its own limits.
        """
        super().__init__(fd, limits)
        self._retrieved: set[int] = set()
        self._lost: dict[int, int] = {}
        """Tokens of which RETRIEVE_FD failed for good, with the errno."""
        self._absent: set[int] = set()
        self._contents: tuple[Entry, ...] | None = None
        self._manifest_read = False
        self._index: dict[int | str, Entry] = {}
        self._finished = False

    @property
    def contents(self) -> tuple[Entry, ...] | None:
        """What the session held when the kernel was left, by its manifest; None: it has none, or is finished.

        Read once, by retrieving the manifest, 64 KiB a part. ManifestError: damaged, or of a format we do not know.
        Errors of `retrieve`.
        """
        self._read_manifest()
        return self._contents

    @property
    def finished(self) -> bool:
        """Whether `finish` was done through this object; see `holds` for others'."""
        return self._finished

    def retrieve(
        self,
        file: int | str | None = None,
        *,
        name: str | None = None,
        size: int | None = None,
        check_memory: bool = True,
        check_driver: bool = True,
    ) -> Fd:
        """The file with this token, or this name in the manifest: RETRIEVE_FD. The caller owns the fd. A name can be
        said as `name`, too.

        Again for the same file: another fd of the same open file description, until FINISH. A memfd comes with its
        contents, size, position and seals; always open for reading and writing, mode 0777, close-on-exec, root's. It
        can be changed at once. The fd stays good after FINISH and close.

        Memory is checked first, since a RETRIEVE_FD that fails is final and frees the data (H1): NotEnoughMemory when
        the file's size, by the manifest or by `size` in bytes, is more than the cgroups and strict overcommit leave
        this process. MemoryUnknown when those limits cannot be read, as in a chroot without /proc or without the cgroup
        file system; a session that luod gave asks luod then. A file of unknown size is not checked.
        `check_memory=False` retrieves the file without the check. Others may take the memory between the check and the
        call: retrieve before starting anything else in the cgroup.

        A VFIO device's driver must have it before: else the ioctl fails, for good, and the session can never be
        finished. So the manifest's devices are looked for in /sys first: VfioDeviceNotBound, and nothing is lost.
        `check_driver=False` goes ahead regardless, and so it is where /sys shows no devices at all. The fd answers
        after `luod.vfio.bind`; until FINISH the device cannot be opened otherwise.

        BadInput: no such name in the manifest. NoSuchToken: ENOENT, also after FINISH. WrongDirection: EINVAL.
        RetrieveFailed: the file is lost. KernelRefused: EMFILE, ENFILE; nothing is lost, try again.
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
            if address is not None and pci.visible() and not devices.has_driver(address):
                raise VfioDeviceNotBound(f"no VFIO driver has the device {address} of {file!r}", address=address)
        return self._retrieve(token)

    def unretrieved(self, tokens: Iterable[int] | None = None) -> tuple[int, ...]:
        """The tokens of the manifest, and of `tokens`, that were not retrieved through this object: what FINISH drops.

        ContentsUnknown: there is no manifest, and no `tokens`. ManifestError, RetrieveFailed: it cannot be read, and no
        `tokens`.
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
        """Ends the session: FINISH. Files not retrieved are dropped, which frees their memory; those retrieved are the
        caller's alone. The fd stays open and answers GET_NAME; close it too. A second call does nothing.

        Mainline drops an unretrieved memfd without a word, so this refuses to, on every kernel. The manifest says what
        there is; `tokens` are added to that. NotRetrieved, ContentsUnknown, ManifestError: as of `unretrieved`; nothing
        was changed. With `discard=True` what is there is not asked.
        FinishRefused: EBUSY, profile `document` with any file unretrieved, or a device that was not retrieved, or not
        bound to an iommufd since; the message says which. It is all or nothing: then nothing was finished.
        WrongDirection: EINVAL.
        """
        if self._finished:
            return
        if not discard:
            dropped = self.unretrieved(tokens)
            if dropped:
                listed = ", ".join(str(token) for token in dropped[:10]) + (", …" if len(dropped) > 10 else "")
                hint = next((devices.lost(self._lost[token]) for token in dropped if token in self._lost), "")
                raise NotRetrieved(f"finishing would drop tokens {listed}", tokens=dropped, hint=hint)
        try:
            calls.FINISH.make(self.fileno(), bytearray(uapi.SESSION_FINISH.pack(uapi.SESSION_FINISH.size, 0)))
        except FinishRefused as error:
            raise self._explained(error) from None
        self._finished = True

    def _explained(self, error: FinishRefused) -> FinishRefused:
        """`error` of a FINISH, naming the devices that it waits for, as far as the manifest knows of them."""
        waiting = [said for entry in self._index_of_devices() if (said := self._waits_for(entry))]
        hint = next(map(devices.lost, self._lost.values()), "")
        if not waiting:
            return FinishRefused(error.errno or 0, error.call, error.meaning, hint=hint)
        return FinishRefused(error.errno or 0, error.call, "; ".join(waiting), hint=hint)

    def _index_of_devices(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self._contents or () if entry.kind == devices.KIND)

    def _waits_for(self, entry: Entry) -> str:
        """Why FINISH waits for a device, in words; "" where it does not, or nobody knows."""
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
            return "" if devices.is_bound(again.fileno()) else f"{named} is not bound to an iommufd"

    def holds(self, token: int = manifest.MANIFEST_TOKEN) -> bool:
        """Whether the kernel has the file under `token`. For a token that was preserved, False says that somebody
        finished the session, which a holder of a duplicate cannot see otherwise (H10).

        It retrieves the file, which its memory is charged for; a manifest is small. It reads nothing. KernelRefused,
        and for another file than a manifest the errors of `retrieve`.
        """
        try:
            (self._retrieve if token in manifest.RESERVED_TOKENS else self.retrieve)(token).close()
        except NoSuchToken:
            return False
        return True

    def close(self) -> None:
        """Closes this fd. When it is the session's last, that is a FINISH: what was not retrieved is lost, and the name
        is gone for good. `with` does the same on the way out of an exception; hold a duplicate where that matters.
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
            raise BadInput(f"the manifest names no file {file!r}", hint="see `contents` for what there is")
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
            raise RetrieveFailed(code, error.call, error.meaning, hint=devices.lost(code)) from None
        self._retrieved.add(token)
        return Fd(uapi.SESSION_RETRIEVE_FD.unpack(argument)[1])

    def _read_manifest(self) -> None:
        if self._manifest_read:
            return
        self._contents = manifest.read(self._manifest_part)
        self._manifest_read = True
        for entry in self._contents or ():
            self._index[entry.token] = entry
            if entry.name is not None:
                self._index.setdefault(entry.name, entry)

    def _manifest_part(self, token: int) -> bytes | None:
        # Where a limit is not known the manifest is read all the same: it is small, and no file of the session.
        left = memory.known(memory.chargeable(enough=manifest.PART_SIZE))
        memory.require(manifest.PART_SIZE, left, "reading the manifest")
        try:
            part = self._retrieve(token)
        except NoSuchToken:
            return None
        with part:
            return os.pread(part.fileno(), manifest.PART_SIZE, 0)
