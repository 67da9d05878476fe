"""/dev/iommu: the ioctls of an open file and their structures. The objects are in `context.py` and `ioas.py`.

It follows drivers/iommu/iommufd of Linux 7.3. What this IOMMU cannot do is in `absent.py`.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from typing import Final

from luod.emulator.model.decode import Command, Request, decode, in_turns
from luod.emulator.model.ports import PAGE, Errno, Kind
from luod.emulator.model.vfio.files import ModelFile
from luod.emulator.model.vfio.iommu import absent, compatible
from luod.emulator.model.vfio.iommu.context import BoundDevice, Context, PageTable
from luod.emulator.model.vfio.iommu.fault_queue import FaultQueue, FaultQueueFile
from luod.emulator.model.vfio.iommu.ioas import MOST, Ioas
from luod.emulator.model.vfio.iommu.locked import LockedMemory
from luod.emulator.model.vfio.iommu.memory import ADDRESS_MAXIMUM, FileBacking, NoMemory
from luod.emulator.model.vfio.ports import DeviceCaller, DeviceHost
from luod.uapi import iommufd as uapi

CAP_SYS_RESOURCE: Final = 24

_ACCESS: Final = uapi.IOMMU_IOAS_MAP_READABLE | uapi.IOMMU_IOAS_MAP_WRITEABLE
_HWPT_ALLOC_MINIMUM: Final = 24
_HW_INFO_MINIMUM: Final = 32
_BLOCK: Final = 1 << 16
"""Bytes that are read or written at once, of a program's array or buffer."""

_TABLE: Final = {
    command.number & 0xFF: command
    for command in (
        Command(uapi.IOMMU_DESTROY, uapi.DESTROY),
        Command(uapi.IOMMU_IOAS_ALLOC, uapi.IOAS_ALLOC),
        Command(uapi.IOMMU_IOAS_ALLOW_IOVAS, uapi.IOAS_ALLOW_IOVAS),
        Command(uapi.IOMMU_IOAS_COPY, uapi.IOAS_COPY),
        Command(uapi.IOMMU_IOAS_IOVA_RANGES, uapi.IOAS_IOVA_RANGES),
        Command(uapi.IOMMU_IOAS_MAP, uapi.IOAS_MAP),
        Command(uapi.IOMMU_IOAS_UNMAP, uapi.IOAS_UNMAP),
        Command(uapi.IOMMU_OPTION, uapi.OPTION),
        Command(uapi.IOMMU_VFIO_IOAS, uapi.VFIO_IOAS),
        Command(uapi.IOMMU_HWPT_ALLOC, uapi.HWPT_ALLOC, minimum=_HWPT_ALLOC_MINIMUM),
        Command(uapi.IOMMU_GET_HW_INFO, uapi.HW_INFO, minimum=_HW_INFO_MINIMUM),
        Command(uapi.IOMMU_IOAS_MAP_FILE, uapi.IOAS_MAP_FILE),
        Command(uapi.IOMMU_IOAS_CHANGE_PROCESS, uapi.IOAS_CHANGE_PROCESS),
        Command(uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.FAULT_ALLOC),
        *absent.COMMANDS,
    )
}
_MARK: Final = Command(uapi.IOMMU_HWPT_LIVEUPDATE_MARK_PRESERVE, uapi.HWPT_LIVEUPDATE_MARK_PRESERVE)


class IommufdFile(ModelFile):
    """One context. Each bound device holds a reference to the file."""

    kind = Kind.IOMMUFD
    link = b"/dev/iommu"

    def __init__(self, host: DeviceHost, locked: LockedMemory, *, can_mark: bool) -> None:
        """`can_mark`: with IOMMU_HWPT_LIVEUPDATE_MARK_PRESERVE of the posted iommufd series."""
        super().__init__()
        self._host = host
        self.context = Context(locked)
        self._commands = _TABLE | ({_MARK.number & 0xFF: _MARK} if can_mark else {})
        self._execute: dict[int, Callable[[Request, DeviceCaller], None]] = {
            uapi.IOMMU_DESTROY: self._destroy,
            uapi.IOMMU_IOAS_ALLOC: self._ioas_alloc,
            uapi.IOMMU_IOAS_ALLOW_IOVAS: self._allow,
            uapi.IOMMU_IOAS_COPY: self._copy,
            uapi.IOMMU_IOAS_IOVA_RANGES: self._ranges,
            uapi.IOMMU_IOAS_MAP: self._map,
            uapi.IOMMU_IOAS_MAP_FILE: self._map_file,
            uapi.IOMMU_IOAS_UNMAP: self._unmap,
            uapi.IOMMU_OPTION: self._option,
            uapi.IOMMU_VFIO_IOAS: self._vfio_ioas,
            uapi.IOMMU_HWPT_ALLOC: self._hwpt_alloc,
            uapi.IOMMU_GET_HW_INFO: self._hw_info,
            uapi.IOMMU_IOAS_CHANGE_PROCESS: self._change_process,
            uapi.IOMMU_FAULT_QUEUE_ALLOC: self._fault_queue_alloc,
            uapi.IOMMU_HWPT_LIVEUPDATE_MARK_PRESERVE: self._mark,
        }

    def _release(self) -> None:
        self.context.close()

    def abandon(self) -> None:
        self.context.close()

    def ioctl(self, command: int, argument: int, caller: DeviceCaller) -> int:
        if command & 0xFF not in self._commands:
            return compatible.ioctl(self.context, command, argument, caller)
        request = decode(self._commands, command, argument, caller)
        execute = self._execute.get(request.number)
        if execute is None:
            absent.refuse(request, self.context)
        else:
            execute(request, caller)
        return 0

    # One method for each command. `request` is its decoded structure.

    def _destroy(self, request: Request, caller: DeviceCaller) -> None:
        self.context.destroy(request.integer(1))

    def _ioas_alloc(self, request: Request, caller: DeviceCaller) -> None:
        _none(request.integer(1))
        number = self.context.add(Ioas())
        try:
            request.answer({2: number})
        except Errno:
            self.context.remove(number)
            raise

    def _allow(self, request: Request, caller: DeviceCaller) -> None:
        """Sets the allowed ranges. Raises Errno: EFAULT, EINVAL for ranges that are empty or overlap, EADDRINUSE.

        ENOMEM for too many.
        """
        _none(request.integer(3))
        ioas = self.context.get(request.integer(1), Ioas)
        ranges: list[tuple[int, int]] = []
        failure = None
        try:
            _read_ranges(caller, request.integer(4), request.integer(2), ranges)
        except Errno as error:
            failure = error
        ranges.sort()
        if any(before[1] >= after[0] for before, after in itertools.pairwise(ranges)):
            raise Errno(errno.EINVAL)  # seen before the range that cannot be read
        if failure is not None:
            raise failure
        ioas.allow(tuple(ranges))

    def _ranges(self, request: Request, caller: DeviceCaller) -> None:
        """Lists the usable ranges. Raises Errno(EMSGSIZE), with their number, when the array is too short."""
        _none(request.integer(3))
        ioas = self.context.get(request.integer(1), Ioas)
        ranges, room = ioas.ranges(), request.integer(2)
        for index, each in enumerate(ranges[:room]):
            caller.write(request.integer(4) + index * uapi.IOVA_RANGE.size, uapi.IOVA_RANGE.pack(*each))
        request.answer({2: len(ranges), 5: ioas.alignment})
        if len(ranges) > room:
            raise Errno(errno.EMSGSIZE)

    def _map(self, request: Request, caller: DeviceCaller) -> None:
        _, flags, number, reserved, address, length, start = (request.integer(index) for index in range(7))
        if reserved:
            raise Errno(errno.EOPNOTSUPP)
        fixed, writable = self._mapping(flags, start, length)
        ioas = self.context.get(number, Ioas)
        if address + length > ADDRESS_MAXIMUM:
            raise Errno(errno.EOVERFLOW)
        _require_pages(length)
        start = ioas.place(start if fixed else None, length, address)
        account = self.context.account(caller)
        memory = caller.memory(address, length)
        readable = bool(flags & uapi.IOMMU_IOAS_MAP_READABLE)
        ioas.map(start, length, memory, None, account, address=address, readable=readable, writable=writable)
        request.answer({6: start})

    def _map_file(self, request: Request, caller: DeviceCaller) -> None:
        """Maps a memfd. Raises the errnos of MAP, and EBADF. Another file is EINVAL once there is a page table."""
        _, flags, number, fd, offset, length, start = (request.integer(index) for index in range(7))
        fixed, writable = self._mapping(flags, start, length)
        ioas = self.context.get(number, Ioas)
        if not length:
            raise Errno(errno.EINVAL)
        if offset + length - 1 > ADDRESS_MAXIMUM:
            raise Errno(errno.EOVERFLOW)
        account = self.context.account(caller)
        file = caller.file(fd)
        try:
            _require_pages(length)
            start = ioas.place(start if fixed else None, length, offset)
            if file.kind in (Kind.MEMFD, Kind.TMPFS, Kind.HUGETLB):
                memory = self._host.pin_file(file, offset, length)
            else:
                memory = NoMemory(length)
            backing = FileBacking(file.identity, file.seals())
        finally:
            file.close()
        readable = bool(flags & uapi.IOMMU_IOAS_MAP_READABLE)
        ioas.map(start, length, memory, backing, account, address=offset, readable=readable, writable=writable)
        request.answer({6: start})

    def _mapping(self, flags: int, start: int, length: int) -> tuple[bool, bool]:
        """Returns (at a fixed address, writable), checked in the order that all maps share."""
        if flags & ~(uapi.IOMMU_IOAS_MAP_FIXED_IOVA | _ACCESS):
            raise Errno(errno.EOPNOTSUPP)
        if start >= ADDRESS_MAXIMUM or length >= ADDRESS_MAXIMUM:
            raise Errno(errno.EOVERFLOW)
        if not flags & _ACCESS:
            raise Errno(errno.EINVAL)
        return bool(flags & uapi.IOMMU_IOAS_MAP_FIXED_IOVA), bool(flags & uapi.IOMMU_IOAS_MAP_WRITEABLE)

    def _copy(self, request: Request, caller: DeviceCaller) -> None:
        _, flags, number, source_number, length, start, source_start = (request.integer(index) for index in range(7))
        fixed, writable = self._mapping(flags, max(start, source_start), length)
        pieces = self.context.get(source_number, Ioas).pieces(source_start, length)
        start = self.context.get(number, Ioas).copy(
            pieces,
            length,
            start if fixed else None,
            readable=bool(flags & uapi.IOMMU_IOAS_MAP_READABLE),
            writable=writable,
        )
        request.answer({5: start})

    def _unmap(self, request: Request, caller: DeviceCaller) -> None:
        """Unmaps. Raises Errno(ENOENT) where nothing is mapped. Address 0 and length 2^64-1 mean everything."""
        _, number, start, length = (request.integer(index) for index in range(4))
        ioas = self.context.get(number, Ioas)
        if (start, length) == (0, ADDRESS_MAXIMUM):
            done = ioas.unmap_all()
        elif start >= ADDRESS_MAXIMUM or length >= ADDRESS_MAXIMUM:
            raise Errno(errno.EOVERFLOW)
        else:
            done = ioas.unmap(start, length)
            if not done:
                raise Errno(errno.ENOENT)
        request.answer({3: done})

    def _option(self, request: Request, caller: DeviceCaller) -> None:
        _, option, operation, reserved, number, value = (request.integer(index) for index in range(6))
        sets = operation == uapi.IOMMU_OPTION_OP_SET
        known = operation in (uapi.IOMMU_OPTION_OP_SET, uapi.IOMMU_OPTION_OP_GET)
        _none(reserved)
        if option == uapi.IOMMU_OPTION_RLIMIT_MODE:
            _none(number or not known)
            if not sets:
                value = int(self.context.counts_by_process)
            elif not caller.capable(CAP_SYS_RESOURCE):
                raise Errno(errno.EPERM)
            elif len(self.context):
                raise Errno(errno.EBUSY)
            elif value > 1:
                raise Errno(errno.EINVAL)
            else:
                self.context.counts_by_process = bool(value)
        elif option == uapi.IOMMU_OPTION_HUGE_PAGES:
            ioas = self.context.get(number, Ioas)
            _none(not known)
            if not sets:
                value = int(ioas.large_pages)
            elif value > 1:
                raise Errno(errno.EINVAL)
            elif value:
                ioas.large_pages = True
            else:
                ioas.disable_large_pages()
        else:
            raise Errno(errno.EOPNOTSUPP)
        request.answer({5: value})

    def _vfio_ioas(self, request: Request, caller: DeviceCaller) -> None:
        _none(request.integer(3))
        match request.integer(2):
            case uapi.IOMMU_VFIO_IOAS_GET:
                request.answer({1: self.context.number_of(self.context.compatible)})
            case uapi.IOMMU_VFIO_IOAS_SET:
                self.context.compatible = self.context.get(request.integer(1), Ioas)
            case uapi.IOMMU_VFIO_IOAS_CLEAR:
                self.context.compatible = None
            case _:
                raise Errno(errno.EOPNOTSUPP)

    def _hwpt_alloc(self, request: Request, caller: DeviceCaller) -> None:
        """Makes a page table. Raises Errno: EOPNOTSUPP, EINVAL, ENOENT (the device, the fault queue), EADDRINUSE."""
        _, flags, device, number, _, reserved, data_type, data_length, _, faults, _ = map(request.integer, range(11))
        _none(reserved)
        if (data_type == uapi.IOMMU_HWPT_DATA_NONE) != (not data_length):
            raise Errno(errno.EINVAL)
        self.context.get(device, BoundDevice)
        try:
            parent = self.context.get(number, object)
        except Errno:
            raise Errno(errno.EINVAL) from None
        unknown = flags & ~(uapi.IOMMU_HWPT_FAULT_ID_VALID | uapi.IOMMU_HWPT_ALLOC_PASID)
        if isinstance(parent, PageTable):
            _none(unknown or not data_length)
        if not isinstance(parent, Ioas):
            raise Errno(errno.EINVAL)  # no page table can be a parent
        _none(unknown or data_length)
        table = PageTable(parent, automatic=False)
        added = self.context.add(table)
        try:
            if flags & uapi.IOMMU_HWPT_FAULT_ID_VALID:
                table.faults = self.context.get(faults, FaultQueue)
            request.answer({4: added})
        except Errno:
            parent.remove_page_table()
            self.context.remove(added)
            raise

    def _hw_info(self, request: Request, caller: DeviceCaller) -> None:
        """Describes an IOMMU of type NONE. The caller's buffer is zeroed."""
        _none(request.integer(1) & ~uapi.IOMMU_HW_INFO_FLAG_INPUT_TYPE or any(request.text(7)))
        self.context.get(request.integer(2), BoundDevice)
        address, end = request.integer(4), request.integer(4) + request.integer(3)

        def clear(at: int) -> int:
            length = min(end - at, _BLOCK)
            caller.write(at, bytes(length))
            return at + length

        in_turns(address, end, clear, caller)
        request.answer({3: 0, 5: uapi.IOMMU_HW_INFO_TYPE_NONE, 6: 0, 8: 0})

    def _change_process(self, request: Request, caller: DeviceCaller) -> None:
        """Lets the caller take over all mappings, and what they have locked.

        Raises Errno: EINVAL with a mapping of a process's memory, ENOMEM beyond the caller's limit.
        """
        _none(request.integer(1))
        for ioas in self.context.all(Ioas):
            if any(area.pages.file is None for area in ioas.space):
                raise Errno(errno.EINVAL)
        if not self.context.counts_by_process:
            self.context.give_pages_to(caller)

    def _fault_queue_alloc(self, request: Request, caller: DeviceCaller) -> None:
        """Makes a fault queue and gives its file. Raises Errno: EOPNOTSUPP, EMFILE, EFAULT."""
        _none(request.integer(1))
        if not caller.has_free_fd():
            raise Errno(errno.EMFILE)
        request.answerable()
        queue = FaultQueue()
        file = FaultQueueFile(queue, self)
        number = self.context.add(queue)
        try:
            fd = caller.install(file, True)
        except Errno:
            self.context.remove(number)
            raise
        finally:
            file.close()
        request.answer({2: number, 3: fd})

    def _mark(self, request: Request, caller: DeviceCaller) -> None:
        """Marks a page table. Raises Errno: ENOENT, EADDRINUSE for a token that another page table of this context has.

        There is no unmark.
        """
        table = self.context.get(request.integer(1), PageTable)
        token = request.integer(2)
        if any(other is not table and other.preserve_token == token for other in self.context.marked()):
            raise Errno(errno.EADDRINUSE)
        table.preserve_token = token


def _read_ranges(caller: DeviceCaller, address: int, count: int, ranges: list[tuple[int, int]]) -> None:
    """Adds the ranges of an array to `ranges`, also those before a failure.

    Raises Errno: EFAULT, EINVAL for an empty range, ENOMEM for too many.
    """
    size = uapi.IOVA_RANGE.size
    block = _BLOCK // size
    for done in range(0, count, block):
        if done >= MOST:
            raise Errno(errno.ENOMEM)
        start, wanted = address + done * size, min(count - done, block)
        try:
            data = caller.read(start, wanted * size)
        except Errno:
            if wanted == 1:
                raise
            # The memory ends within the block. The ranges before that place still count.
            _read_ranges(caller, start, wanted // 2, ranges)
            _read_ranges(caller, start + wanted // 2 * size, wanted - wanted // 2, ranges)
            continue
        for first, last in uapi.IOVA_RANGE.iter_unpack(data):
            if first >= last:
                raise Errno(errno.EINVAL)
            ranges.append((first, last))


def _require_pages(length: int) -> None:
    """Checks the length of new pages (iopt_alloc_pages). Raises Errno(EINVAL) where rounding up would overflow."""
    if length > ADDRESS_MAXIMUM - PAGE:
        raise Errno(errno.EINVAL)


def _none(value: int | bool) -> None:
    """Checks that a reserved field or an unsupported flag is 0. Raises Errno(EOPNOTSUPP)."""
    if value:
        raise Errno(errno.EOPNOTSUPP)
