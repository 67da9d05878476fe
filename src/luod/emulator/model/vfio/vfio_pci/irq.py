"""Interrupts of one enabled device: the eventfd of each vector, and SET_IRQS in vfio-pci's order of checks.

One kind is enabled at a time (INTx, MSI, MSI-X). Two more are not interrupts of the device: errors, and the kernel's
request to release the device. The object exists while the device is enabled.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import Final

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.hardware.device import Device
from luod.emulator.model.vfio.ports import DeviceCaller, EventFd
from luod.uapi import vfio as uapi

_U32_MAX: Final = (1 << 32) - 1
_FD: Final = struct.Struct("=i")
_SIZES: Final = {
    uapi.VFIO_IRQ_SET_DATA_NONE: 0,
    uapi.VFIO_IRQ_SET_DATA_BOOL: 1,
    uapi.VFIO_IRQ_SET_DATA_EVENTFD: _FD.size,
}
_ALONE: Final = (uapi.VFIO_PCI_ERR_IRQ_INDEX, uapi.VFIO_PCI_REQ_IRQ_INDEX)


@dataclass(frozen=True)
class _Order:
    """A valid SET_IRQS. `wanted`: for each vector whether the action applies to it."""

    action: int
    data: int
    start: int
    count: int
    fds: tuple[int, ...]
    wanted: tuple[bool, ...]

    @property
    def turns_off(self) -> bool:
        return not self.count and self.data == uapi.VFIO_IRQ_SET_DATA_NONE


class Interrupts:
    """Owns its eventfds until `close`."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kind: int | None = None
        self._vectors: dict[int, EventFd] = {}
        self._alone: dict[int, EventFd] = {}
        self._masked = False
        self._allocated = 0
        """MSI vectors: fixed when the first is turned on."""

    @property
    def enabled(self) -> bool:
        """Returns whether the user enabled INTx, MSI or MSI-X: such a device cannot be frozen."""
        return self._kind is not None

    def close(self) -> None:
        self._disable()
        for eventfd in self._alone.values():
            eventfd.close()
        self._alone.clear()

    def count(self, index: int) -> int:
        """Returns the number of interrupts of a kind (VFIO_PCI_*_IRQ_INDEX)."""
        if index == uapi.VFIO_PCI_INTX_IRQ_INDEX:
            return int(self._device.config.has_interrupt_pin)
        if index == uapi.VFIO_PCI_MSI_IRQ_INDEX:
            return self._device.description.msi
        if index == uapi.VFIO_PCI_MSIX_IRQ_INDEX:
            return self._device.description.msix
        return int(index in _ALONE)

    def deliver(self, vector: int) -> None:
        """Signals the vector that the device raised.

        INTx is masked until the user unmasks it, and stays asserted until then: the device has no register to end it.
        """
        if self._kind == uapi.VFIO_PCI_INTX_IRQ_INDEX:
            self._device.config.show_intx(True)
            if not self._masked and not self._device.config.intx_disabled:
                self._signal(0)
                self._masked = True
        elif self._kind is not None and self._device.config.bus_master:
            self._signal(vector)

    def request(self) -> None:
        """Signals the kernel's request that the user release the device."""
        eventfd = self._alone.get(uapi.VFIO_PCI_REQ_IRQ_INDEX)
        if eventfd is not None:
            eventfd.signal()

    def _signal(self, vector: int) -> None:
        eventfd = self._vectors.get(vector)
        if eventfd is not None:
            eventfd.signal()

    def _disable(self) -> None:
        self._device.config.show_intx(False)
        self._kind = None
        self._masked = False
        for eventfd in self._vectors.values():
            eventfd.close()
        self._vectors.clear()

    def set(self, argument: int, caller: DeviceCaller) -> int:
        """Executes VFIO_DEVICE_SET_IRQS.

        Raises Errno: EFAULT, EINVAL, ENOTTY for an action that a kind does not have, and those of `eventfd`.
        """
        argsz, flags, index, start, count = uapi.IRQ_SET.unpack(caller.read(argument, uapi.IRQ_SET.size))
        known = uapi.VFIO_IRQ_SET_DATA_TYPE_MASK | uapi.VFIO_IRQ_SET_ACTION_TYPE_MASK
        data = flags & uapi.VFIO_IRQ_SET_DATA_TYPE_MASK
        if (
            argsz < uapi.IRQ_SET.size
            or index >= uapi.VFIO_PCI_NUM_IRQS
            or count >= _U32_MAX - start
            or flags & ~known
            or start >= self.count(index)
            or start + count > self.count(index)
            or data not in _SIZES
            or argsz - uapi.IRQ_SET.size < count * _SIZES[data]
        ):
            raise Errno(errno.EINVAL)
        content = caller.read(argument + uapi.IRQ_SET.size, count * _SIZES[data])
        fds: tuple[int, ...] = ()
        wanted = (True,) * count
        if data == uapi.VFIO_IRQ_SET_DATA_EVENTFD:
            fds = tuple(fd for (fd,) in _FD.iter_unpack(content))
        elif data == uapi.VFIO_IRQ_SET_DATA_BOOL:
            wanted = tuple(bool(byte) for byte in content)
        order = _Order(flags & uapi.VFIO_IRQ_SET_ACTION_TYPE_MASK, data, start, count, fds, wanted)
        if index == uapi.VFIO_PCI_INTX_IRQ_INDEX and order.action in (
            uapi.VFIO_IRQ_SET_ACTION_MASK,
            uapi.VFIO_IRQ_SET_ACTION_UNMASK,
        ):
            self._mask(order)
        elif order.action != uapi.VFIO_IRQ_SET_ACTION_TRIGGER:
            raise Errno(errno.ENOTTY)
        elif index == uapi.VFIO_PCI_INTX_IRQ_INDEX:
            self._trigger_intx(order, caller)
        elif index in (uapi.VFIO_PCI_MSI_IRQ_INDEX, uapi.VFIO_PCI_MSIX_IRQ_INDEX):
            self._trigger_messages(index, order, caller)
        else:
            self._trigger_alone(index, order, caller)
        return 0

    def _mask(self, order: _Order) -> None:
        if self._kind != uapi.VFIO_PCI_INTX_IRQ_INDEX or order.count != 1:
            raise Errno(errno.EINVAL)
        if order.fds:
            # The kernel has it for UNMASK only. This machine cannot wait on an eventfd.
            raise Errno(errno.ENOTTY)
        if order.wanted[0]:
            self._masked = order.action == uapi.VFIO_IRQ_SET_ACTION_MASK
            if not self._masked:
                self._device.config.show_intx(False)

    def _trigger_intx(self, order: _Order, caller: DeviceCaller) -> None:
        is_intx = self._kind == uapi.VFIO_PCI_INTX_IRQ_INDEX
        if is_intx and order.turns_off:
            self._disable()
            return
        if not (is_intx or self._kind is None) or order.count != 1:
            raise Errno(errno.EINVAL)
        if order.fds:
            eventfd = caller.eventfd(order.fds[0]) if order.fds[0] >= 0 else None
            self._set(self._vectors, 0, eventfd)
            self._kind = uapi.VFIO_PCI_INTX_IRQ_INDEX
        elif not is_intx:
            raise Errno(errno.EINVAL)
        elif order.wanted[0]:
            self._signal(0)

    def _trigger_messages(self, index: int, order: _Order, caller: DeviceCaller) -> None:
        """Sets eventfds of MSI or MSI-X. MSI-X vectors can be added later; for MSI that is Errno(EINVAL).

        Each vector is checked in turn. A failure leaves none of the named ones with an eventfd.
        """
        is_on = self._kind == index
        if is_on and order.turns_off:
            self._disable()
            return
        if not (is_on or self._kind is None):
            raise Errno(errno.EINVAL)
        if order.data == uapi.VFIO_IRQ_SET_DATA_EVENTFD:
            last = order.start + order.count
            if not is_on and not last:
                raise Errno(errno.ERANGE)
            if not is_on:
                self._allocated = last if index == uapi.VFIO_PCI_MSI_IRQ_INDEX else self.count(index)
            self._kind = index
            try:
                for vector, fd in enumerate(order.fds, order.start):
                    self._set(self._vectors, vector, None)
                    if fd >= 0 and vector >= self._allocated:
                        raise Errno(errno.EINVAL)
                    if fd >= 0:
                        self._vectors[vector] = caller.eventfd(fd)
            except Errno:
                for given in range(order.start, vector):
                    self._set(self._vectors, given, None)
                if not is_on:
                    self._disable()
                raise
        elif not is_on:
            raise Errno(errno.EINVAL)
        else:
            for vector, asked in enumerate(order.wanted, order.start):
                if asked:
                    self._signal(vector)

    def _trigger_alone(self, index: int, order: _Order, caller: DeviceCaller) -> None:
        eventfd = self._alone.get(index)
        if order.turns_off:
            if eventfd is None:
                raise Errno(errno.EINVAL)
            self._set(self._alone, index, None)
            return
        if not order.count or (order.fds and order.fds[0] < -1):
            raise Errno(errno.EINVAL)
        if order.fds:
            self._set(self._alone, index, caller.eventfd(order.fds[0]) if order.fds[0] >= 0 else None)
        elif eventfd is not None:
            if order.wanted[0]:
                eventfd.signal()
        elif order.data == uapi.VFIO_IRQ_SET_DATA_NONE:
            raise Errno(errno.EINVAL)

    @staticmethod
    def _set(eventfds: dict[int, EventFd], number: int, eventfd: EventFd | None) -> None:
        """Replaces the eventfd, or removes it."""
        old = eventfds.pop(number, None)
        if old is not None:
            old.close()
        if eventfd is not None:
            eventfds[number] = eventfd
