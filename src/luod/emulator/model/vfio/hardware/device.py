"""The device itself: registers in its first BAR, memory, and an engine that computes over DMA. It outlives every kexec.

A program writes a command into DOORBELL, by pwrite or through a mapping. At its next `step` the device executes it,
clears DOORBELL and increments COUNT. After a reset every register is 0 except IDENTITY. The device does not know
drivers or VFIO: its user sets the address space of its DMA and a sink for its interrupts when it enables the device.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Final, Protocol

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.hardware.config_space import COMMAND_MASTER, MSIX_TABLE, ConfigSpace
from luod.emulator.model.vfio.hardware.description import DeviceDescription, Reset
from luod.emulator.model.vfio.ports import Memory

IDENTITY: Final = 0x00
"""u32, read only: "LUOD"."""
STATUS: Final = 0x04
"""u32: one of the STATUS_ values, of the last command."""
DOORBELL: Final = 0x08
"""u32: one of the COMMAND_ values; 0 when the device has nothing to do."""
VECTOR: Final = 0x0C
"""u32: 1 more than the interrupt vector to raise when a command is done; 0 for no interrupt."""
SOURCE: Final = 0x10
"""u64: address of the input, as the IOMMU translates it."""
DESTINATION: Final = 0x18
"""u64: address of the output."""
LENGTH: Final = 0x20
"""u64: bytes of the input, at most LENGTH_MAXIMUM."""
VALUE: Final = 0x28
"""u64: the result of SUM, and the value that FILL writes (its lowest byte)."""
COUNT: Final = 0x30
"""u32: commands executed since the last reset. A value stored there lasts until the next one."""
SCRATCH: Final = 0x38
"""u64: for the free use of a program."""

COMMAND_SUM: Final = 1
"""Adds the bytes at SOURCE to VALUE, and writes the 8 bytes of VALUE to DESTINATION."""
COMMAND_COPY: Final = 2
"""Copies SOURCE to DESTINATION."""
COMMAND_FILL: Final = 3
"""Fills LENGTH bytes at DESTINATION."""
COMMAND_INTERRUPT: Final = 4
"""Only raises the interrupt."""

STATUS_IDLE: Final = 0
STATUS_DONE: Final = 1
STATUS_DMA_FAULT: Final = 2
"""The IOMMU does not allow the access, or the device is not a bus master."""
STATUS_BAD_COMMAND: Final = 3

LENGTH_MAXIMUM: Final = 16 << 20
IDENTITY_VALUE: Final = int.from_bytes(b"LUOD", "little")

_REGISTERS: Final = struct.Struct("<IIIIQQQQI")
_REGISTER_PAGE: Final = 4096
_U64: Final = (1 << 64) - 1


class Dma(Protocol):
    """The memory that the IOMMU lets a device reach. Addresses are the device's."""

    def read(self, address: int, length: int) -> bytes:
        """Returns bytes. Raises Errno(EFAULT): not mapped, or not readable."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Writes bytes. Raises Errno(EFAULT): not mapped, or not writable; nothing was written."""
        ...


class Device:
    """One function of the hardware. `dma` and `interrupt` are None while it is not enabled."""

    def __init__(self, description: DeviceDescription, config: ConfigSpace, bars: tuple[Memory, ...]) -> None:
        """Owns the memory of its BARs until `close`."""
        self.description = description
        self.config = config
        self.bars = bars
        self.dma: Dma | None = None
        self.interrupt: Callable[[int], None] | None = None
        self.clear()

    def close(self) -> None:
        self.isolate()
        for bar in self.bars:
            bar.close()

    def isolate(self) -> None:
        """Stops DMA and interrupts from now on."""
        self.dma = None
        self.interrupt = None

    def reset(self, *, first: bool = False) -> None:
        """Does a function level reset; `first` when the device is being enabled.

        Raises Errno(ENOTTY), Errno(ETIMEDOUT).

        Registers and MSI-X table are as after power on. The caller saves and restores configuration space, as the
        kernel does. Memory in other BARs keeps its contents.
        """
        match self.description.reset:
            case Reset.NONE:
                raise Errno(errno.ENOTTY)
            case Reset.FAILS_LATER if not first:
                raise Errno(errno.ETIMEDOUT)
        self.clear()

    def clear(self) -> None:
        """Sets registers and MSI-X table as they are after power on."""
        self._count = 0
        self.config.show_intx(False)
        registers = self.bars[0]
        registers.write(0, bytes(_REGISTER_PAGE))
        registers.write(MSIX_TABLE, bytes(16 * self.description.msix))
        registers.write(IDENTITY, IDENTITY_VALUE.to_bytes(4, "little"))

    def step(self) -> None:
        """Executes the command in DOORBELL."""
        if not self.config.memory_enabled:
            return
        registers = self.bars[0]
        if registers.read(DOORBELL, 4) == b"\0\0\0\0":
            return
        _, _, command, vector, source, destination, length, value, _ = _REGISTERS.unpack(
            registers.read(0, _REGISTERS.size)
        )
        try:
            value = self._carry_out(command, source, destination, length, value)
            status = STATUS_DONE
        except Errno:
            status = STATUS_DMA_FAULT
        except ValueError:
            status = STATUS_BAD_COMMAND
        self._count = self._count + 1 & 0xFFFFFFFF
        # The doorbell last: a program that sees it cleared finds the rest written.
        registers.write(VALUE, struct.pack("<QI", value, self._count))
        registers.write(IDENTITY, struct.pack("<II", IDENTITY_VALUE, status))
        registers.write(DOORBELL, bytes(4))
        if vector and self.interrupt is not None:
            self.interrupt(vector - 1)

    def _carry_out(self, command: int, source: int, destination: int, length: int, value: int) -> int:
        """Returns VALUE afterwards. Raises Errno(EFAULT) for failed DMA, ValueError for an unknown command."""
        if length > LENGTH_MAXIMUM:
            raise ValueError(length)
        if command == COMMAND_SUM:
            value = value + sum(self._bus().read(source, length)) & _U64
            self._bus().write(destination, value.to_bytes(8, "little"))
        elif command == COMMAND_COPY:
            self._bus().write(destination, self._bus().read(source, length))
        elif command == COMMAND_FILL:
            self._bus().write(destination, bytes([value & 0xFF]) * length)
        elif command != COMMAND_INTERRUPT:
            raise ValueError(command)
        return value

    def _bus(self) -> Dma:
        if self.dma is None or not self.config.command & COMMAND_MASTER:
            raise Errno(errno.EFAULT)
        return self.dma
