"""The configuration space of a function: 4096 bytes, the writable bits among them, and their effects.

It is as vfio-pci shows it to a user. Numbers are little-endian. Properties report bits with an effect (reset, power
state, bus mastering); `device.py` and `vfio_pci/cdev.py` act on them.
"""

from __future__ import annotations

import errno
from typing import Final

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.hardware.description import DeviceDescription

SIZE: Final = 4096

_COMMAND: Final = 0x04
_STATUS: Final = 0x06
_BAR0: Final = 0x10
_INTERRUPT_LINE: Final = 0x3C
_INTERRUPT_PIN: Final = 0x3D
_POWER: Final = 0x40
_POWER_CONTROL: Final = _POWER + 4
_MSIX: Final = 0x50
_EXPRESS: Final = 0x60
_DEVICE_CONTROL: Final = _EXPRESS + 8
_MSI: Final = 0xA0
_SRIOV: Final = 0x100

COMMAND_MEMORY: Final = 0x0002
COMMAND_MASTER: Final = 0x0004
COMMAND_INTX_DISABLE: Final = 0x0400
_STATUS_INTERRUPT: Final = 0x0008
_COMMAND_WRITABLE: Final = 0x0547
_INITIATE_RESET: Final = 0x8000

MSIX_TABLE: Final = 0x2000
MSIX_PENDING: Final = 0x3000
"""Offsets in the first BAR."""


class ConfigSpace:
    """The configuration space of a device.

    That of a bridge is in sysfs alone, since no program opens one through VFIO.
    """

    def __init__(self, description: DeviceDescription, bar_addresses: tuple[int, ...], virtual_functions: int) -> None:
        """`bar_addresses` are physical, 32 bits each."""
        self._data = bytearray(SIZE)
        self._writable = bytearray(SIZE)
        self._bars = description.bars
        self._bar_addresses = bar_addresses
        put = self._put
        put(0x00, 2, description.vendor)
        put(0x02, 2, description.device)
        put(_STATUS, 2, 0x0010)  # it has capabilities
        put(0x08, 4, description.class_code << 8 | 0x01)
        put(0x2C, 2, description.vendor)
        put(0x2E, 2, description.device)
        put(0x34, 1, _POWER)
        if description.vf_of is None:
            put(_INTERRUPT_PIN, 1, 1)
        put(_INTERRUPT_LINE, 1, 11, writable=0xFF)
        # Power management 1.2: D0 and D3hot, no soft reset.
        message = _MSIX if description.msix else _EXPRESS
        put(_POWER, 4, 0x0003_0001 | (_MSI if description.msi else message) << 8)
        put(_POWER_CONTROL, 2, 0x0008, writable=0x0003)
        if description.msi:
            put(_MSI, 2, 0x0005 | message << 8)
            # 64-bit addresses; the number of vectors, and of enabled vectors, as powers of two.
            put(_MSI + 2, 2, 0x0080 | description.msi.bit_length() - 1 << 1, writable=0x0071)
            put(_MSI + 4, 8, 0, writable=0xFFFFFFFF_FFFFFFFC)
            put(_MSI + 12, 2, 0, writable=0xFFFF)
        if description.msix:
            put(_MSIX, 2, 0x0011 | _EXPRESS << 8)
            put(_MSIX + 2, 2, description.msix - 1, writable=0xC000)
            put(_MSIX + 4, 4, MSIX_TABLE)
            put(_MSIX + 8, 4, MSIX_PENDING)
        # PCI Express endpoint, version 2, with function level reset.
        put(_EXPRESS, 4, 0x0002_0010)
        put(_EXPRESS + 4, 4, 0x1000_8000)
        put(_DEVICE_CONTROL, 2, 0x2810, writable=0x7FFF)
        # One lane of 2.5 GT/s, at its full speed.
        put(_EXPRESS + 0x0C, 4, 0x0000_0011)
        put(_EXPRESS + 0x12, 2, 0x0011)
        if virtual_functions:
            put(_SRIOV, 4, 0x0001_0010)
            put(_SRIOV + 0x0C, 2, virtual_functions)
            put(_SRIOV + 0x0E, 2, virtual_functions)
            put(_SRIOV + 0x10, 2, virtual_functions)
        put(_COMMAND, 2, 0, writable=_COMMAND_WRITABLE)
        for index, (size, address) in enumerate(zip(description.bars, bar_addresses, strict=True)):
            put(_BAR0 + 4 * index, 4, address, writable=0xFFFFFFFF & ~(size - 1))

    def _put(self, offset: int, size: int, value: int, writable: int = 0) -> None:
        self._data[offset : offset + size] = value.to_bytes(size, "little")
        self._writable[offset : offset + size] = writable.to_bytes(size, "little")

    def _get(self, offset: int, size: int) -> int:
        return int.from_bytes(self._data[offset : offset + size], "little")

    def read(self, offset: int, length: int) -> bytes:
        """Returns bytes of it. Raises Errno(EFAULT) beyond the end, as vfio-pci does."""
        if offset + length > SIZE:
            raise Errno(errno.EFAULT)
        return bytes(self._data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> bool:
        """Returns whether the write asks for a function level reset. Raises Errno(EFAULT) beyond the end.

        Bits that are not writable stay.
        """
        if offset + len(data) > SIZE:
            raise Errno(errno.EFAULT)
        control = range(_DEVICE_CONTROL, _DEVICE_CONTROL + 2)
        asked = False
        for position, byte in enumerate(data, offset):
            mask = self._writable[position]
            self._data[position] = self._data[position] & ~mask | byte & mask
            if position == control[1]:
                asked = bool(byte << 8 & _INITIATE_RESET)
        return asked

    @property
    def command(self) -> int:
        return self._get(_COMMAND, 2)

    @command.setter
    def command(self, value: int) -> None:
        self._data[_COMMAND : _COMMAND + 2] = value.to_bytes(2, "little")

    @property
    def power_state(self) -> int:
        """Returns 0 for D0, 3 for D3hot."""
        return self._get(_POWER_CONTROL, 2) & 0x3

    def wake(self) -> None:
        """Changes the power state to D0."""
        self._data[_POWER_CONTROL] &= ~0x3 & 0xFF

    @property
    def memory_enabled(self) -> bool:
        """Returns whether the BARs answer."""
        return self.power_state < 3 and bool(self.command & COMMAND_MEMORY)

    @property
    def bus_master(self) -> bool:
        """Returns whether the device may do DMA and send messages."""
        return self.power_state < 3 and bool(self.command & COMMAND_MASTER)

    @property
    def intx_disabled(self) -> bool:
        return bool(self.command & COMMAND_INTX_DISABLE)

    @property
    def has_interrupt_pin(self) -> bool:
        return self._get(_INTERRUPT_PIN, 1) != 0

    def show_intx(self, asserted: bool) -> None:
        """Sets or clears the bit of the status register that shows INTx, whether or not it is disabled."""
        status = self._get(_STATUS, 2) & ~_STATUS_INTERRUPT | (_STATUS_INTERRUPT if asserted else 0)
        self._data[_STATUS : _STATUS + 2] = status.to_bytes(2, "little")

    def restore(self) -> None:
        """Restores the state after the reset at open: D0, memory on, no DMA, INTx not masked, BARs as assigned."""
        self.wake()
        self.command = COMMAND_MEMORY
        for index, address in enumerate(self._bar_addresses):
            offset = _BAR0 + 4 * index
            self._data[offset : offset + 4] = address.to_bytes(4, "little")
        # MSI and MSI-X off, device control at its default.
        self._data[_MSIX + 3] &= 0x3F
        self._data[_MSI + 2] &= 0x8E
        self._data[_DEVICE_CONTROL : _DEVICE_CONTROL + 2] = (0x2810).to_bytes(2, "little")
