"""Where a file in memory is in the machine: the page frames behind a memfd, to show that its memory was never copied.

`python3 -m luod.testing.frames PATH` prints them as JSON, PATH being such as /proc/PID/fd/N. In two such lists, of
before a kexec and of after it, a page that stayed at its physical address has the same frame. The kernel tells the
frames only to root of the initial user namespace (Documentation/admin-guide/mm/pagemap.rst).
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import sys
from array import array
from collections.abc import Iterator

from luod.errors import MachineUnavailable
from luod.linux import Fd, syscall

_FRAME = (1 << 55) - 1
_MEMFDS = ("/memfd:", "/ (deleted)")
"""How links of memfds begin: one that was retrieved has lost its name."""


def frames(path: str | os.PathLike[str]) -> array[int]:
    """Returns the frame number of each page of a file in memory, 0 for a page that is not allocated.

    It maps the file, a part at a time, and changes nothing. Raises MachineUnavailable: the kernel does not tell this
    process. Raises OSError as open(2) does.
    """
    with Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as file:
        fd = file.fileno()
        found = array("Q", bytes(8 * _pages(os.fstat(fd).st_size)))
        allocated = False
        for begin, end in _parts(fd):
            allocated = True
            found[begin // mmap.PAGESIZE : _pages(end)] = _frames(fd, begin, end)
    if allocated and not any(found):
        raise MachineUnavailable("the kernel tells page frames only to root of the initial user namespace")
    return found


def memfd_of(pid: int, size: int) -> str:
    """Returns the path of the memfd of `size` bytes that a process has open. Raises LookupError if it has none."""
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):
        path = f"{folder}/{number}"
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(path).startswith(_MEMFDS) and os.stat(path).st_size == size:
                return path
    raise LookupError(f"process {pid} has no memfd of {size} bytes open")


def _parts(fd: int) -> Iterator[tuple[int, int]]:
    """Yields the parts of a file that are no holes: mapping a hole could allocate it."""
    begin, size = 0, os.fstat(fd).st_size
    while begin < size:
        try:
            begin = os.lseek(fd, begin, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # the rest is a hole
                return
            raise
        end = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        yield begin, end
        begin = end


def _frames(fd: int, begin: int, end: int) -> array[int]:
    length, pages = end - begin, _pages(end - begin)
    entries = array("Q")
    # Not by the module mmap, which does not tell the address.
    address = syscall("mmap", None, length, mmap.PROT_READ, mmap.MAP_SHARED | mmap.MAP_POPULATE, fd, begin)
    try:
        with open("/proc/self/pagemap", "rb", 0) as pagemap:
            pagemap.seek(_pages(address) * entries.itemsize)
            while len(entries) < pages:
                entries.frombytes(pagemap.read((pages - len(entries)) * entries.itemsize))
    finally:
        syscall("munmap", address, length)
    return array("Q", [entry & _FRAME for entry in entries])


def _pages(size: int) -> int:
    return (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE


def main() -> None:
    print(json.dumps(frames(sys.argv[1]).tolist()))


if __name__ == "__main__":
    main()
