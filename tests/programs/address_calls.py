"""The questions about IO address spaces: structures of iommufd and VFIO with any values, and memory to map.

One part of `driver`, inside a machine. The memory is at the same addresses in every process and on every machine, since
addresses that the kernel chooses depend on it. Standard library and luod.uapi only.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys
from pathlib import Path
from typing import Any, Final

from luod.uapi import vfio
from tests.programs.argument import Argument, ioctl
from tests.programs.session_calls import SessionCalls, Slot

ARENA: Final = 0x1000_0000_0000
READ_ONLY, HOLE, SHARED = ARENA + (1 << 20), ARENA + (5 << 18), ARENA + (2 << 20)
"""1 MiB from ARENA on can be written, 256 KiB from READ_ONLY on can be read. 256 KiB at SHARED are a file."""
ARRAY: Final = ARENA - (1 << 20)
"""The address that the word "array" in a structure stands for. A page."""

_FIXED: Final = 0x100000  # MAP_FIXED_NOREPLACE
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


def _map_at(address: int, length: int, protection: int, flags: int, fd: int = -1) -> None:
    if _libc.mmap(address, length, protection, flags | _FIXED, fd, 0) != address:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class AddressCalls(SessionCalls):
    """The calls on /dev/iommu, groups, containers and devices."""

    _arena_mapped = False

    def _map_arena(self) -> None:
        """Maps the memory, once in a process."""
        if self._arena_mapped:
            return
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        both = mmap.PROT_READ | mmap.PROT_WRITE
        _map_at(ARENA, 1 << 20, both, private)
        _map_at(READ_ONLY, 1 << 18, mmap.PROT_READ, private)
        _map_at(ARRAY, mmap.PAGESIZE, both, private)
        fd = os.memfd_create("arena", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, 1 << 18)
            _map_at(SHARED, 1 << 18, both, mmap.MAP_SHARED, fd)
        finally:
            os.close(fd)
        self._arena_mapped = True

    def do_structure(
        self,
        fd: Slot,
        command: int,
        layout: str,
        values: list[int | str],
        array: list[int] | None = None,
        size: int | None = None,
        tail: str = "",
        memory: str = "writable",
        mapped: int | None = None,
    ) -> dict[str, Any]:
        """Makes an ioctl with a structure. Returns its result, and the fields and words of `array` that it changed.

        The structure's own size comes first and is not among `values`. "array" stands for the address of the array, any
        other word for the fd in a slot.
        """
        self._map_arena()
        form = struct.Struct(layout)
        numbers = [form.size, *(self._number(value) for value in values)]
        data = form.pack(*numbers)
        if size is not None:
            data = size.to_bytes(4, sys.byteorder) + data[4:]
            if size < 1 << 20:
                data = data[: max(size, 4)].ljust(max(size, 4) - len(tail), b"\0")
            numbers[0] = size
        before = [0xFFFF_FFFF_FFFF] * 16 if array is None else (array + [0xFFFF_FFFF_FFFF] * 16)[: max(16, len(array))]
        words = (ctypes.c_uint64 * len(before)).from_address(ARRAY)
        for index, word in enumerate(before):
            words[index] = word
        answer: dict[str, Any] = {}
        number = self.fd(fd)
        with Argument(data + tail.encode("latin-1"), writable=memory == "writable", mapped=mapped) as argument:
            try:
                answer["returned"] = ioctl(number, command, 0 if memory == "null" else argument.pointer)
            except OSError as error:
                answer["errno"] = errno.errorcode.get(error.errno or 0, str(error))
            after = argument.bytes()
        if len(after) >= form.size:
            fields = form.unpack_from(after)
            answer["changed"] = [[index, field] for index, field in enumerate(fields) if field != numbers[index]]
        if (array_after := list(words)) != before:
            answer["array"] = array_after
        return answer

    def _number(self, value: int | str) -> int:
        if isinstance(value, int):
            return value
        return ARRAY if value == "array" else self.fd(value)

    def do_number(self, fd: Slot, command: int, argument: int) -> int:
        """Makes an ioctl whose argument is a number."""
        return ioctl(self.fd(fd), command, argument)

    def do_set_container(self, group: Slot, container: Slot) -> None:
        """Calls VFIO_GROUP_SET_CONTAINER, whose argument is the address of an fd."""
        with Argument(struct.pack("=i", self.fd(container))) as argument:
            ioctl(self.fd(group), vfio.VFIO_GROUP_SET_CONTAINER, argument.pointer)

    def do_open_vfio(self, what: str, slot: str) -> None:
        """Opens the first character device or group, the container or /dev/iommu. Returns no number."""
        self.put(slot, os.open(_path(what), os.O_RDWR | os.O_CLOEXEC))

    def do_device_of_group(self, group: Slot, slot: str) -> None:
        """Calls VFIO_GROUP_GET_DEVICE_FD with the address of the first device."""
        address = Path(os.path.realpath(f"/sys/class/vfio-dev/{os.path.basename(_path('device'))}")).parts[-3]
        with Argument(address.encode() + b"\0") as argument:
            self.put(slot, ioctl(self.fd(group), vfio.VFIO_GROUP_GET_DEVICE_FD, argument.pointer))


def _path(what: str) -> str:
    if what == "iommu":
        return "/dev/iommu"
    if what == "container":
        return "/dev/vfio/vfio"
    folder = Path("/dev/vfio/devices" if what == "device" else "/dev/vfio")
    found = sorted(entry for entry in folder.iterdir() if what == "device" or entry.name.isdecimal())
    if not found:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    return str(found[0])
