"""Writes random programs about a device: how a file gets access to it, page tables, interrupts, regions, resets, DMA.

The program has parts. Each opens the device in one way, by its character device or by its group, uses it, and closes
everything in a random order. The questions of `addresses` are asked in between. The machines have one device, which is
bound to vfio-pci and alone on its bus.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from luod.uapi import iommufd, vfio
from tests.conformance.random_programs.addresses import FILES, PAGE, Author
from tests.conformance.random_programs.program import Boot, Program, Question
from tests.programs.address_calls import HOLE

_EVENTFDS: Final = ("e0", "e1")
_LONGEST, _SHORTEST = 160, 50
"""Questions of one part."""
_CONFIG: Final = vfio.VFIO_PCI_CONFIG_REGION_INDEX
_COMMAND: Final = 0x04
_COMMAND_BITS: Final = 0x0406
"""Bits of the command register that every device has: memory, bus master, INTx off."""
_INTERRUPTS: Final = 0xFEE00000
_TABLE: Final = 0x2000
"""Where the MSI-X table is in BAR 0, if the device has one."""


def generate(seed: int, *, questions: int, express: bool) -> Program:
    """Returns a program of one boot, about a device of PCI Express, or about one that copies by DMA.

    The former has 4 KiB of configuration space. The other is like QEMU's `edu`, a conventional device with 256 bytes of
    it, so that it is not asked about more. `tests.programs.device_calls` can drive it.
    """
    return Program(seed, (Boot(tuple(DeviceAuthor(random.Random(seed), express=express).write(questions))),))


class DeviceAuthor(Author):
    """Writes one program."""

    def __init__(self, chance: random.Random, *, express: bool) -> None:
        super().__init__(chance)
        self._open |= {"group": [], "device": []}
        self._ways: tuple[Callable[[], None], ...] = (
            self._by_character_device,
            self._by_character_device,
            self._by_container,
            self._by_iommufd_of_a_group,
            self._in_any_order,
        )
        self._steps |= {
            self._open_group: 2,
            self._open_device: 2,
            self._of_group: 4,
            self._set_container: 4,
            self._unset_container: 2,
            self._group_status: 3,
            self._bind: 6,
            self._attach: 16,
            self._detach: 5,
            self._device_hwpt: 12,
            self._hw_info: 5,
            self._device_info: 5,
            self._region_info: 6,
            self._irq_info: 5,
            self._set_irqs: 24,
            self._signalled: 8,
            self._feature: 6,
            self._reset: 3,
            self._hot_reset_info: 4,
            self._hot_reset: 3,
            self._command: 12,
            self._bars: 4,
            self._read_region: 8,
            self._write_region: 6,
        }
        self._express = express
        if not express:
            self._steps[self._copy_by_dma] = 10

    def write(self, questions: int) -> list[Question]:
        self._make_files()
        for slot in _EVENTFDS:
            self._ask("eventfd", slot=slot)
        while len(self._questions) < questions:
            self._chance.choice(self._ways)()
            end = len(self._questions) + self._chance.randint(_SHORTEST, _LONGEST)
            while len(self._questions) < end:
                self._step()
            self._close_all()
        return self._questions

    # -- ways to the device ----------------------------------------------------------------------------------------

    def _open_device(self) -> None:
        self._open_vfio("device")

    def _open_group(self) -> None:
        self._open_vfio("group")

    def _by_character_device(self) -> None:
        self._open_iommu()
        self._open_device()
        spaces = self._chance.choice((1, 1, 2, 3))
        for _ in range(spaces):
            self._structure(self._open["iommu"][0], iommufd.IOMMU_IOAS_ALLOC, "=III", 0, 0)
        self._structure(
            self._open["device"][0], vfio.VFIO_DEVICE_BIND_IOMMUFD, "=IIiIQ", 0, self._open["iommu"][0], 0, 0
        )
        if not self._rarely(6):
            self._structure(
                self._open["device"][0],
                vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT,
                "=IIII",
                0,
                self._chance.choice((1, 1, 2)),
                0,
            )

    def _by_container(self) -> None:
        self._open_container()
        self._open_group()
        group, container = self._open["group"][0], self._open["container"][0]
        self._ask("set_container", group=group, container=container)
        kind = self._chance.choice((vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU, vfio.VFIO_TYPE1v2_IOMMU))
        self._ask("number", fd=container, command=vfio.VFIO_SET_IOMMU, argument=kind)
        self._of_group()

    def _by_iommufd_of_a_group(self) -> None:
        self._open_iommu()
        self._open_group()
        group, context = self._open["group"][0], self._open["iommu"][0]
        self._ask("set_container", group=group, container=context)
        if self._rarely(2):
            kind = self._chance.choice((vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU))
            self._ask("number", fd=context, command=vfio.VFIO_SET_IOMMU, argument=kind)
        self._of_group()

    def _in_any_order(self) -> None:
        steps = [self._open_iommu, self._open_container, self._open_device, self._open_group]
        self._chance.shuffle(steps)
        for step in steps[self._chance.randrange(3) :]:
            step()

    def _close_all(self) -> None:
        slots = [(kind, slot) for kind, some in self._open.items() for slot in some]
        self._chance.shuffle(slots)
        for kind, slot in slots:
            self._open[kind].remove(slot)
            self._ask("close", fd=slot)

    # -- groups and containers -------------------------------------------------------------------------------------

    def _of_group(self) -> None:
        if (group := self._one("group")) is not None and len(self._open["device"]) < 3:
            slot = f"vfio{self._slots}"
            self._slots += 1
            self._open["device"].append(slot)
            self._ask("device_of_group", group=group, slot=slot)

    def _set_container(self) -> None:
        if (group := self._one("group")) is not None:
            file = self._chance.choice([*self._open["container"], *self._open["iommu"], *FILES[:1]])
            self._ask("set_container", group=group, container=file)

    def _unset_container(self) -> None:
        if (group := self._one("group")) is not None:
            self._ask("number", fd=group, command=vfio.VFIO_GROUP_UNSET_CONTAINER, argument=0)

    def _group_status(self) -> None:
        if (group := self._one("group")) is not None:
            self._structure(group, vfio.VFIO_GROUP_GET_STATUS, "=II", 0)

    # -- iommufd ---------------------------------------------------------------------------------------------------

    def _device_structure(self, command: int, layout: str, *values: int | str) -> None:
        if (device := self._one("device")) is not None:
            self._structure(device, command, layout, *values)

    def _bind(self) -> None:
        files: list[int | str] = [*self._open["iommu"], *self._open["iommu"], *self._open["container"], "f0", 999]
        context = self._chance.choice(files)
        flags = vfio.VFIO_DEVICE_BIND_FLAG_TOKEN if self._rarely(10) else self._reserved() & ~1
        token: int | str = self._chance.choice(("array", HOLE)) if flags & 1 else 0
        self._device_structure(vfio.VFIO_DEVICE_BIND_IOMMUFD, "=IIiIQ", flags, context, 0, token)

    def _attach(self) -> None:
        number, pasid = self._number(), self._chance.choice((0, 0, 1))
        self._device_structure(vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, "=IIII", self._reserved(), number, pasid)

    def _detach(self) -> None:
        self._device_structure(vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, "=III", self._reserved(), 0)

    def _device_hwpt(self) -> None:
        """Asks for page tables, with few flags, data types and fault queues."""
        flags = self._chance.choice((0,) * 10 + (1, 2, 4, 8, 16, 1 << 31))
        kind, length = self._chance.choice(((0, 0),) * 8 + ((1, 8), (0, 8), (1, 0), (99, 8)))
        fault = self._chance.choice((0, 0, 0, 1, 2))
        values = flags, self._number(), self._number(), 0, self._reserved(), kind, length, "array" if length else 0
        self._iommufd(iommufd.IOMMU_HWPT_ALLOC, "=IIIIIIIIQII", *values, fault, 0)

    def _hw_info(self) -> None:
        room = self._chance.choice((0, 0, 8, 64, 128))
        where: int | str = self._chance.choice(("array", "array", "array", HOLE)) if room else 0
        values = self._reserved(), self._number(), room, where, self._chance.choice((0, 0, 0, 1)), 0, 0, 0, 0, 0
        self._iommufd(iommufd.IOMMU_GET_HW_INFO, "=IIIIQIBBBBQ", *values)

    # -- the device ------------------------------------------------------------------------------------------------

    def _device_info(self) -> None:
        self._device_structure(vfio.VFIO_DEVICE_GET_INFO, "=IIIIII", 0, 0, 0, 0, 0)

    def _region_info(self) -> None:
        index = self._chance.choice((*range(10), 0, 7, 1 << 31))
        if index == _CONFIG and not self._express:
            index = 0
        capability = "HHI" if self._rarely(2) else ""
        self._device_structure(
            vfio.VFIO_DEVICE_GET_REGION_INFO, "=IIIIQQ" + capability, 0, index, 0, 0, 0, *(0,) * len(capability)
        )

    def _irq_info(self) -> None:
        index = self._chance.choice((*range(6), 1 << 31))
        self._device_structure(vfio.VFIO_DEVICE_GET_IRQ_INFO, "=IIII", 0, index, 0)

    def _set_irqs(self) -> None:
        index = (
            self._chance.choice((0, 1, 2, 2, 2, 3, 4)) if not self._rarely(15) else self._chance.choice((5, 9, 1 << 31))
        )
        if self._rarely(5):  # turns them off
            self._device_structure(vfio.VFIO_DEVICE_SET_IRQS, "=IIIII", 0x21, index, 0, 0)
            return
        data = self._chance.choice((1, 2, 4, 4, 4, 4))
        action = self._chance.choice((8, 16, 32, 32, 32, 32, 32))
        flags = data | action
        if self._rarely(15):
            flags = self._chance.choice((0, data, action, data | 8 | 16, 3 | action, 6 | action, flags | 1 << 6))
        start = self._chance.choice((0, 0, 0, 0, 1, 2, 3, 4, 5, 0xFFFFFFFF))
        count = self._chance.choice((1, 1, 1, 2, 3, 4, 0, 5))
        if index != vfio.VFIO_PCI_MSIX_IRQ_INDEX and not self._rarely(5):
            start, count = 0, 1
        items: list[int | str] = []
        if data == 2:
            items = [self._chance.choice((0, 1, 1, 2)) for _ in range(count)]
        elif data == 4:
            items = [
                self._chance.choice((*_EVENTFDS, *_EVENTFDS, *_EVENTFDS, -1, -1, "f0", 999, -2)) for _ in range(count)
            ]
        form = "B" if data == 2 else "i"
        if items and self._rarely(15):
            items.pop()
        self._device_structure(
            vfio.VFIO_DEVICE_SET_IRQS, "=IIIII" + form * len(items), flags, index, start, count, *items
        )

    def _signalled(self) -> None:
        self._ask("signalled", fd=self._chance.choice(_EVENTFDS))

    def _feature(self) -> None:
        feature = self._chance.choice((0, 0, *range(1, 14), 99))
        how = self._chance.choice((1 << 16, 1 << 17, 1 << 18, 3 << 16, 5 << 16, 6 << 16, 7 << 16, 0, 1 << 19))
        self._device_structure(vfio.VFIO_DEVICE_FEATURE, "=IIQQ", feature | how, 0, 0)

    def _device_number(self, command: int) -> None:
        if (device := self._one("device")) is not None:
            self._ask("number", fd=device, command=command, argument=0)

    def _reset(self) -> None:
        self._device_number(vfio.VFIO_DEVICE_RESET)

    def _hot_reset_info(self) -> None:
        room = self._chance.choice((0, 1, 1, 2))
        values = self._reserved(), 0, *(0,) * (4 * room)
        self._device_structure(vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, "=III" + "iHBB" * room, *values)

    def _hot_reset(self) -> None:
        files = self._chance.choice(([], self._open["group"][:1], self._open["group"][:1], ["f0"], [999], ["f0"] * 3))
        count = self._chance.choice((0, 2, 99)) if self._rarely(8) else len(files)
        self._device_structure(
            vfio.VFIO_DEVICE_PCI_HOT_RESET, "=III" + "i" * len(files), self._reserved(), count, *files
        )

    # -- regions ---------------------------------------------------------------------------------------------------

    def _region(self, verb: str, **parameters: int | str) -> None:
        if (device := self._one("device")) is not None:
            self._ask(verb, device=device, **parameters)

    def _command(self) -> None:
        """Writes or reads the command register."""
        if self._rarely(2):
            value = self._chance.choice((0, 2, 6, 6, 0x402, 0x406))
            self._region(
                "region_write", region=_CONFIG, offset=_COMMAND, data=value.to_bytes(2, "little").decode("latin-1")
            )
        self._region("region_read", region=_CONFIG, offset=_COMMAND, length=2, mask=_COMMAND_BITS)

    def _bars(self) -> None:
        """Asks for the size of BAR 0, as a guest does."""
        self._region("bar_size")

    def _read_region(self) -> None:
        region = self._chance.choice((0, 0, _CONFIG, _CONFIG, _CONFIG, *range(10)))
        places: tuple[int, ...] = (0, 0, 1, 4, 64, 256, PAGE - 4, PAGE - 1, PAGE, _TABLE, _TABLE - 4, 1 << 14, 1 << 30)
        if region == _CONFIG and not self._express:
            places = (0, 1, 4, 64, PAGE, _TABLE)
        offset = self._chance.choice(places)
        length = self._chance.choice((0, 1, 2, 3, 4, 4, 8, 16, 64))
        self._region("region_read", region=region, offset=offset, length=length, mask=0)

    def _write_region(self) -> None:
        """Writes where the device has nothing that changes: beyond the ends of regions, and to the vendor's number."""
        region, offset = self._chance.choice(
            (
                (0, 1 << 20),
                (0, 1 << 30),
                (0, 1 << 24),
                (1, 0),
                (5, 0),
                (6, 0),
                (_CONFIG, PAGE),
                (_CONFIG, 0),
                (8, 0),
                (9, 0),
            )
        )
        data = self._chance.choice(("", "\0", "\0\0", "\0" * 4, "\0" * 8))
        self._region("region_write", region=region, offset=offset, data=data)

    def _copy_by_dma(self) -> None:
        source, target = (self._dma_address() for _ in range(2))
        self._region("copy_by_dma", source=source, target=target)

    def _dma_address(self) -> int:
        """Returns an address that mostly is mapped, at half a page; none where a write is an interrupt."""
        start, _ = self._mapped()
        address = (start & ~(PAGE - 1)) + self._chance.choice((0, 0, PAGE // 2))
        return PAGE if address >> 20 == _INTERRUPTS >> 20 else address
