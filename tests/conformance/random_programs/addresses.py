"""Writes random programs about IO address spaces: iommufd, VFIO's own ioctls on it, and containers without a group.

From a seed and a size a `Program` of one boot, the same one everywhere. `tests.programs.address_calls` asks its
questions. Numbers come from small pools, so that objects, addresses and lengths meet. It does not follow what the calls
did, but opens what later calls need more often than it closes it.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any, Final

from luod.uapi import iommufd, vfio
from tests.conformance.random_programs import garble
from tests.conformance.random_programs.program import Boot, Program, Question
from tests.programs.address_calls import ARENA, HOLE, READ_ONLY, SHARED

PAGE: Final = 4096
_TOP: Final = (1 << 64) - 1
FILES: Final = ("f0", "f1", "f2")
"""Slots of memfds of two pages, 256 KiB and no bytes; "f9" is no open file."""
_ADDRESSES: Final = (ARENA, ARENA + PAGE, ARENA + (1 << 19), READ_ONLY, READ_ONLY - PAGE, HOLE, HOLE - PAGE, SHARED)
_IOVAS: Final = (0, PAGE, 2 * PAGE, 3 * PAGE, 8 * PAGE, 1 << 20, 2 << 20, 1 << 30, 0xFEE00000, 0xFEDFF000, 1 << 32)
_FAR: Final = ((1 << 48) - PAGE, 1 << 48, _TOP - PAGE, _TOP - PAGE + 1, _TOP, 1 << 63)
_LENGTHS: Final = (PAGE, PAGE, 2 * PAGE, 4 * PAGE, 16 * PAGE, 1 << 16, 1 << 18)
_ODD: Final = (0, 1, 8, 512, 2048, PAGE - 1, PAGE + 1, 1 << 20, 1 << 63, _TOP - PAGE, _TOP - 1, _TOP)
OFFSETS: Final = (*(0,) * 20, 1, 8, 2048, PAGE - 1)


def generate(seed: int, *, questions: int) -> Program:
    """Returns a program of one boot, for machines without a device."""
    return Program(seed, (Boot(tuple(Author(random.Random(seed)).write(questions))),))


class Author:
    """Writes one program."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._questions: list[Question] = []
        self._open: dict[str, list[str]] = {"iommu": [], "container": []}
        self._recent: list[tuple[int, int]] = [(0, PAGE)]
        """Addresses and lengths of the last mappings that were asked for."""
        self._slots = 0
        steps: dict[Callable[[], None], int] = {
            self._open_iommu: 1,
            self._close: 1,
            self._alloc: 14,
            self._destroy: 4,
            self._map: 24,
            self._map_file: 8,
            self._copy: 12,
            self._unmap: 14,
            self._ranges: 6,
            self._allow: 5,
            self._option: 8,
            self._compatible: 6,
            self._change_process: 1,
            self._absent: 6,
            self._hwpt: 5,
            self._old_map: 10,
            self._old_unmap: 8,
            self._old_number: 6,
            self._info: 4,
            self._any_number: 3,
            self._open_container: 1,
        }
        self._steps = steps

    def write(self, questions: int) -> list[Question]:
        self._make_files()
        self._open_iommu()
        while len(self._questions) < questions:
            self._step()
        return self._questions

    def _make_files(self) -> None:
        for slot, size in zip(FILES, (2 * PAGE, 1 << 18, 0), strict=True):
            self._ask("memfd", slot=slot, size=size)

    def _step(self) -> None:
        """Asks something, mostly one question."""
        self._chance.choices(list(self._steps), list(self._steps.values()))[0]()

    # -- chance ----------------------------------------------------------------------------------------------------

    def _rarely(self, one_in: int) -> bool:
        return self._chance.randrange(one_in) == 0

    def _number(self) -> int:
        """Returns the number of an object: few, so that most exist."""
        return (
            self._chance.choice((0, 1 << 31, 99, 6)) if self._rarely(12) else self._chance.choice((1, 1, 2, 2, 3, 4, 5))
        )

    def _address(self) -> int:
        return self._chance.choice(_ADDRESSES) + self._chance.choice(OFFSETS)

    def _iova(self) -> int:
        if self._rarely(10):
            return self._chance.choice(_FAR)
        return self._chance.choice(_IOVAS) + self._chance.choice(OFFSETS)

    def _length(self) -> int:
        return self._chance.choice(_ODD) if self._rarely(8) else self._chance.choice(_LENGTHS)

    def _mapped(self) -> tuple[int, int]:
        """Returns a range that mostly was asked for in a mapping, or a part of one."""
        if self._rarely(4):
            return self._iova(), self._length()
        start, length = self._chance.choice(self._recent)
        return (start, length) if self._rarely(2) else (start + self._chance.choice((0, PAGE)), self._length())

    def _remember(self, start: int, length: int) -> tuple[int, int]:
        self._recent = [*self._recent[-5:], (start, length)]
        return start, length

    def _reserved(self) -> int:
        return self._chance.choice((1, 1 << 31)) if self._rarely(25) else 0

    def _flags(self, known: int) -> int:
        """Returns mostly a choice of the known bits, and rarely others."""
        if self._rarely(20):
            return self._chance.choice((1 << 3, 1 << 5, 1 << 31))
        return self._chance.choice((known, known, self._chance.randrange(known + 1)))

    def _one(self, kind: str) -> str | None:
        return self._chance.choice(self._open[kind]) if self._open[kind] else None

    # -- questions -------------------------------------------------------------------------------------------------

    def _ask(self, verb: str, **parameters: Any) -> None:
        self._questions.append({"do": verb, **parameters})

    def _structure(self, fd: str, command: int, layout: str, *values: int | str, **more: Any) -> None:
        """Asks with an argument that may be garbled, and mostly again with a correct one."""
        how = garble.argument(self._chance, struct.calcsize(layout)) if self._rarely(4) else {}
        question = {"fd": fd, "command": command, "layout": layout, "values": list(values), **more}
        self._ask("structure", **question, **how)
        if how and not self._rarely(3):
            self._ask("structure", **question)

    def _iommufd(self, command: int, layout: str, *values: int | str, **more: Any) -> None:
        fd = self._one("iommu")
        if fd is None:
            self._open_iommu()
        else:
            self._structure(fd, command, layout, *values, **more)

    def _open_vfio(self, what: str) -> None:
        if len(self._open[what]) > 1 and not self._rarely(8):
            return
        slot = f"{what}{self._slots}"
        self._slots += 1
        self._open[what].append(slot)
        self._ask("open_vfio", what=what, slot=slot)

    def _open_iommu(self) -> None:
        self._open_vfio("iommu")

    def _open_container(self) -> None:
        self._open_vfio("container")

    def _close(self) -> None:
        kind = self._chance.choice(list(self._open))
        if (slot := self._one(kind)) is not None:
            self._open[kind].remove(slot)
            self._ask("close", fd=slot)

    def _alloc(self) -> None:
        self._iommufd(iommufd.IOMMU_IOAS_ALLOC, "=III", self._reserved(), 0)

    def _destroy(self) -> None:
        self._iommufd(iommufd.IOMMU_DESTROY, "=II", self._number())

    def _map(self) -> None:
        start, length = self._remember(self._iova(), self._length())
        values = self._flags(7), self._number(), self._reserved(), self._address(), length, start
        self._iommufd(iommufd.IOMMU_IOAS_MAP, "=IIIIQQQ", *values)

    def _map_file(self) -> None:
        file = "f9" if self._rarely(30) else self._chance.choice((*FILES, *FILES, *self._open["iommu"]))
        offset = self._chance.choice((0, 0, PAGE, 1 << 16, *OFFSETS, *_ODD))
        start, length = self._remember(self._iova(), self._length())
        values = self._flags(7), self._number(), file, offset, length, start
        self._iommufd(iommufd.IOMMU_IOAS_MAP_FILE, "=IIIiQQQ", *values)

    def _copy(self) -> None:
        start, length = self._mapped()
        values = self._flags(7), self._number(), self._number(), length, self._iova(), start
        self._iommufd(iommufd.IOMMU_IOAS_COPY, "=IIIIQQQ", *values)

    def _unmap(self) -> None:
        start, length = (0, _TOP) if self._rarely(8) else self._mapped()
        self._iommufd(iommufd.IOMMU_IOAS_UNMAP, "=IIQQ", self._number(), start, length)

    def _ranges(self) -> None:
        room = self._chance.choice((0, 1, 2, 3, 4, 8))
        where: int | str = self._chance.choice((0, HOLE)) if self._rarely(12) else "array"
        values = self._number(), room, self._reserved(), where, 0
        self._iommufd(iommufd.IOMMU_IOAS_IOVA_RANGES, "=IIIIQQ", *values)

    def _allow(self) -> None:
        count = self._chance.choice((0, 1, 1, 2, 3))
        array: list[int] = []
        for _ in range(count):
            first = self._iova()
            array += [first, min(first + self._chance.choice((0, 1, PAGE - 1, 1 << 16, 1 << 30, 1 << 47)), _TOP)]
        where: int | str = HOLE if self._rarely(15) else "array"
        values = self._number(), count, self._reserved(), where
        self._iommufd(iommufd.IOMMU_IOAS_ALLOW_IOVAS, "=IIIIQ", *values, array=array)

    def _option(self) -> None:
        """Asks for an option. To set RLIMIT_MODE needs CAP_SYS_RESOURCE, which root lacks in a container."""
        option = self._chance.choice((iommufd.IOMMU_OPTION_RLIMIT_MODE, iommufd.IOMMU_OPTION_HUGE_PAGES, 1, 1, 2))
        values = (
            option,
            self._chance.choice((1, 1, 2) if option == iommufd.IOMMU_OPTION_RLIMIT_MODE else (0, 0, 0, 1, 1, 2)),
            self._reserved() & 0xFFFF,
            self._chance.choice((0, self._number(), self._number())),
            self._chance.choice((0, 1, 0, 1, 2, _TOP)),
        )
        self._iommufd(iommufd.IOMMU_OPTION, "=IIHHIQ", *values)

    def _compatible(self) -> None:
        operation = self._chance.choice((0, 0, 1, 1, 1, 1, 2, 3))
        self._iommufd(iommufd.IOMMU_VFIO_IOAS, "=IIHH", self._number(), operation, self._reserved() & 0xFFFF)

    def _change_process(self) -> None:
        self._iommufd(iommufd.IOMMU_IOAS_CHANGE_PROCESS, "=II", self._reserved())

    def _absent(self) -> None:
        """Asks for what depends on the hardware, with objects that do not fit or with reserved bits."""
        number, other, one = self._number(), self._reserved(), self._chance.choice((0, 1))
        command, layout, values = self._chance.choice(
            (
                (iommufd.IOMMU_HWPT_SET_DIRTY_TRACKING, "=IIII", (other or 1, number, 0)),
                (iommufd.IOMMU_HWPT_INVALIDATE, "=IIQIIII", (number, 0, 1, 8, one, other)),
                (iommufd.IOMMU_VDEVICE_ALLOC, "=IIIIQ", (number, number, 0, 0)),
                (iommufd.IOMMU_VEVENTQ_ALLOC, "=IIIIIIII", (other, number, 1, one, 0, 0, 0)),
                (iommufd.IOMMU_HW_QUEUE_ALLOC, "=IIIIIIQQ", (other, number, 1, 0, 0, self._iova(), self._length())),
                (iommufd.IOMMU_IOAS_NOIOMMU_GET_PA, "=IIIIQQQ", (other, number, one, self._iova(), self._length(), 0)),
                (
                    iommufd.IOMMU_VIOMMU_ALLOC,
                    "=IIIIIIIIQ",
                    (other, self._chance.choice((0, 1)), 99, number, 0, 0, 0, 0),
                ),
            )
        )
        self._iommufd(command, layout, *values)

    def _hwpt(self) -> None:
        values = 0, self._number(), self._number(), 0, self._reserved(), self._chance.choice((0, 0, 0, 1)), 0, 0, 0, 0
        self._iommufd(iommufd.IOMMU_HWPT_ALLOC, "=IIIIIIIIQII", *values)

    def _any_number(self) -> None:
        """Asks a number that is hardly one of the fd's own."""
        fd = self._one(self._chance.choice(tuple(self._open)))
        if fd is not None:
            number = self._chance.choice((0x5F, 0x63, 0x69, 0x75, 0x95, 0x96, 0x97, 0xFF, self._chance.randrange(256)))
            if number in (0x68, 0x6A, 0x8E):  # would make fds, or take the next words for one
                return
            self._structure(fd, 0x3B00 | number, "=IIQQ", 0, 0, 0)

    # -- VFIO's own ioctls, on an iommufd or a container -----------------------------------------------------------

    def _old(self) -> str | None:
        return self._one(self._chance.choice(("iommu", "iommu", "container")))

    def _old_map(self) -> None:
        if (fd := self._old()) is not None:
            values = self._flags(3), self._address(), *self._remember(self._iova(), self._length())
            self._structure(fd, vfio.VFIO_IOMMU_MAP_DMA, "=IIQQQ", *values)

    def _old_unmap(self) -> None:
        if (fd := self._old()) is not None:
            start, length = (0, 0) if self._rarely(8) else self._mapped()
            everything = vfio.VFIO_DMA_UNMAP_FLAG_ALL if not start or self._rarely(20) else 0
            self._structure(fd, vfio.VFIO_IOMMU_UNMAP_DMA, "=IIQQ", everything, start, length)

    def _old_number(self) -> None:
        if (fd := self._old()) is not None:
            command, arguments = self._chance.choice(
                (
                    (vfio.VFIO_GET_API_VERSION, (0,)),
                    (vfio.VFIO_CHECK_EXTENSION, (0, 1, 2, 3, 4, 6, 7, 8, 9, 11, 99)),
                    (vfio.VFIO_SET_IOMMU, (1, 3, 1, 3, 1, 3, 0, 2, 4, 8, 99)),
                    (vfio.VFIO_SET_IOMMU, (1, 3)),
                )
            )
            self._ask("number", fd=fd, command=command, argument=self._chance.choice(arguments))

    def _info(self) -> None:
        if (fd := self._old()) is not None:
            self._structure(fd, vfio.VFIO_IOMMU_GET_INFO, "=IIQII", 0, 0, 0, 0)
