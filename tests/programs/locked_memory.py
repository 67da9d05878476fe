"""Maps memory for DMA as a process without CAP_IPC_LOCK, whose limit is LIMIT. Prints the answers as JSON.

Arguments: the device's PCI address, and the number of its iommu group.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import sys
from collections.abc import Callable

from luod.uapi import iommufd, vfio
from tests.programs.raw_vfio import (
    attach,
    bind,
    call,
    ioas,
    map_file,
    map_memory,
    open_device,
    open_iommufd,
    open_type1,
)

LIMIT = 1 << 20
HALF = LIMIT // 2
PAGE = 4096

address, group = sys.argv[1:]
answers: dict[str, object] = {}
memory = mmap.mmap(-1, 4 * LIMIT)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
memfd = os.memfd_create("guest")
os.ftruncate(memfd, LIMIT)


def attempt(do: Callable[[], object]) -> str:
    """Returns "" or the name of an errno."""
    try:
        do()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def unmap(context: int, space: int, iova: int, length: int) -> None:
    call(context, iommufd.IOMMU_IOAS_UNMAP, iommufd.IOAS_UNMAP, space, iova, length)


def map_dma(container: int, iova: int, length: int) -> None:
    layout = vfio.IOMMU_TYPE1_DMA_MAP
    fcntl.ioctl(container, vfio.VFIO_IOMMU_MAP_DMA, layout.pack(layout.size, 3, start, iova, length))


def unmap_dma(container: int, iova: int, length: int) -> None:
    layout = vfio.IOMMU_TYPE1_DMA_UNMAP
    fcntl.ioctl(container, vfio.VFIO_IOMMU_UNMAP_DMA, layout.pack(layout.size, 0, iova, length))


def unprivileged(do: Callable[[], list[str]], *, user: int = 1000, limit: int = LIMIT) -> list[str]:
    """Returns what `do` returns in a process of its own, with the limit, and without capabilities unless it is root."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        os.write(writer, json.dumps(do()).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        result: list[str] = json.loads(answer.read())
    os.waitpid(child, 0)
    return result


def through_iommufd(context: int, space: int) -> list[str]:
    return [
        attempt(lambda: map_memory(context, space, start, LIMIT + PAGE, 0)),
        attempt(lambda: map_memory(context, space, start, HALF, 0)),
        attempt(lambda: map_memory(context, space, start, HALF, HALF)),
        attempt(lambda: map_memory(context, space, start, PAGE, LIMIT)),
        attempt(lambda: map_file(context, space, memfd, PAGE, LIMIT)),
        attempt(lambda: unmap(context, space, 0, HALF)),
        attempt(lambda: map_file(context, space, memfd, HALF, 0)),
        attempt(lambda: map_memory(context, space, start, PAGE, LIMIT)),
        attempt(lambda: unmap(context, space, 0, HALF)),
        attempt(lambda: map_memory(context, space, start + 1, HALF - PAGE, LIMIT)),
        attempt(lambda: map_memory(context, space, start + PAGE - 1, PAGE, 2 * LIMIT)),
    ]


def through_a_container(container: int) -> list[str]:
    return [
        attempt(lambda: map_dma(container, 0, LIMIT + PAGE)),
        attempt(lambda: map_dma(container, 0, HALF)),
        attempt(lambda: map_dma(container, HALF, HALF)),
        attempt(lambda: map_dma(container, LIMIT, PAGE)),
        attempt(lambda: unmap_dma(container, 0, HALF)),
        attempt(lambda: map_dma(container, LIMIT, HALF)),
        attempt(lambda: map_dma(container, 0, PAGE)),
    ]


def change(context: int) -> None:
    call(context, iommufd.IOMMU_IOAS_CHANGE_PROCESS, iommufd.IOAS_CHANGE_PROCESS, 0)


def through_changes(context: int, space: int) -> list[list[str]]:
    """Returns the answers while the memory of user 1000 goes over to user 1001, to root, and to user 1002."""

    def by(user: int, *calls: Callable[[], None], limit: int = LIMIT) -> list[str]:
        return unprivileged(lambda: [attempt(do) for do in calls], user=user, limit=limit)

    def room(length: int) -> Callable[[], None]:
        def do() -> None:
            map_file(context, space, memfd, length, 8 * LIMIT)
            unmap(context, space, 8 * LIMIT, length)

        return do

    def taken() -> None:
        change(context)

    half, more = room(HALF), room(HALF + PAGE)
    return [
        by(1000, lambda: map_file(context, space, memfd, HALF, 0), half, more),
        by(1001, taken, limit=HALF - PAGE),
        by(1000, half, more),
        by(1001, half, taken, half, more),
        by(1000, more, room(LIMIT)),
        by(1001, taken, half, more),
        by(0, taken, limit=HALF - PAGE),
        by(0, taken),
        by(1001, half, more),
        by(1002, taken, half, more),
        by(1001, more, room(LIMIT)),
        by(1002, lambda: unmap(context, space, 0, HALF), room(LIMIT)),
    ]


memory.write(b"x" * len(memory))
device, context = open_device(address), open_iommufd()
bind(device, context)
unattached, space = ioas(context), ioas(context)
attach(device, space)
answers["an iommufd"] = unprivileged(lambda: through_iommufd(context, space))
answers["another process of that user"] = unprivileged(lambda: through_iommufd(context, space))
answers["root"] = attempt(lambda: map_memory(context, space, start, 2 * LIMIT, 8 * LIMIT))
answers["without a page table"] = unprivileged(
    lambda: [attempt(lambda: map_memory(context, unattached, start, 2 * LIMIT, 0))]
)
answers["attach"] = attempt(lambda: attach(device, unattached))
os.close(device)
os.close(context)
device, context = open_device(address), open_iommufd()
bind(device, context)
space = ioas(context)
attach(device, space)
answers["changes of the process"] = through_changes(context, space)
os.close(device)
os.close(context)
file, container = open_type1(int(group))
answers["a container"] = unprivileged(lambda: through_a_container(container))
answers["another process"] = unprivileged(lambda: through_a_container(container))
answers["root of a container"] = attempt(lambda: map_dma(container, 8 * LIMIT, 2 * LIMIT))
print(json.dumps(answers))
