"""Binds drivers to devices, at boot and later: driver_override, new_id, bind, unbind, drivers_probe, remove, rescan.

Writes to the files of those names (`sysfs`) end here. An unbind from a VFIO driver waits until no file of the device is
open, and every later request for that device waits for the unbind. Drivers are described in `driver.py`. The order of
checks is that of drivers/pci/pci-driver.c and drivers/base/dd.c of Linux 7.3.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Final

from luod.emulator.model.ports import Errno
from luod.emulator.model.results import Blocked, Waiting
from luod.emulator.model.vfio.driver import VFIO_PCI, Driver
from luod.emulator.model.vfio.function import Function
from luod.emulator.model.vfio.vfio_pci.pci_core import Surroundings

_OVERRIDE_MAXIMUM: Final = 4095
_ANY: Final = 0xFFFFFFFF


class Drivers:
    """Every driver of one boot, and every function that is present."""

    def __init__(self, names: Iterable[str], around: Surroundings) -> None:
        self.all = {name: Driver(name) for name in (VFIO_PCI, *names)}
        self.functions: list[Function] = []
        """The functions that are present; a removed function is not."""
        self._removed: list[Function] = []
        self.generation = 0
        """Counts the changes: bindings that were made or undone, functions that came or went."""
        self._around = around

    def _changed(self) -> None:
        self.generation += 1

    def add(self, functions: Iterable[Function]) -> None:
        """Adds functions, as at boot, and probes each."""
        for function in functions:
            self.functions.append(function)
            self._probe(function)

    def preset(self, ids: str) -> None:
        """Applies `vfio-pci.ids=` of the command line, vendor:device pairs, before any device is found."""
        for pair in ids.split(","):
            vendor, _, device = pair.partition(":")
            try:
                self.all[VFIO_PCI].dynamic.append((int(vendor, 16), int(device.partition(":")[0], 16)))
            except ValueError:
                self._around.log(f'vfio_pci: invalid id string "{pair}"')

    @property
    def unbinding(self) -> Function | None:
        """Returns the device that an unbind waits for, or None."""
        return next((function for function in self.functions if function.unbinding), None)

    # Requests of user space. A `name` is an address, as written.

    def bind(self, driver: Driver, name: str) -> int | Blocked:
        """Binds `driver`.

        Raises Errno: ENODEV (no such device, or not of its kind), EBUSY (bound), the errnos of the probe.
        """

        def attach(function: Function) -> int | Blocked:
            if not _matches(driver, function):
                raise Errno(errno.ENODEV)
            if function.driver is not None:
                raise Errno(errno.EBUSY)
            self._attach(driver, function)
            return 0

        return self._with(name, attach)

    def unbind(self, driver: Driver, name: str) -> int | Blocked:
        """Unbinds `driver`, once no file of the device is open.

        Raises Errno(ENODEV) when the device has another driver.
        """

        def detach(function: Function) -> int | Blocked:
            if function.driver is not driver:
                raise Errno(errno.ENODEV)
            return self._detach(function)

        return self._with(name, detach)

    def probe(self, name: str) -> int | Blocked:
        """Probes one device (drivers_probe). Raises Errno(ENODEV). A device that no driver accepts is not an error."""

        def look(function: Function) -> int | Blocked:
            self._probe(function)
            return 0

        return self._with(name, look)

    def override(self, function: Function, name: str) -> int | Blocked:
        """Sets driver_override; "" removes it. Raises Errno(EINVAL) for a name that is too long."""
        if len(name) > _OVERRIDE_MAXIMUM:
            raise Errno(errno.EINVAL)

        def store(function: Function) -> int | Blocked:
            function.driver_override = name or None
            return 0

        return self._with(str(function.address), store)

    def new_id(self, driver: Driver, words: str) -> int | Blocked:
        """Adds a pair of ids to `driver`, and probes the devices without a driver. Raises Errno: EINVAL, EEXIST."""
        identifier = _parse_id(words)
        if identifier in driver.dynamic:
            raise Errno(errno.EEXIST)
        driver.dynamic.append(identifier)
        for function in self.functions:
            if function.driver is None and not function.unbinding and _matches(driver, function):
                self._try(driver, function)
        return 0

    def remove_id(self, driver: Driver, words: str) -> int | Blocked:
        """Removes a pair of ids. Bound devices stay bound. Raises Errno: EINVAL, ENODEV."""
        identifier = _parse_id(words)
        if identifier not in driver.dynamic:
            raise Errno(errno.ENODEV)
        driver.dynamic.remove(identifier)
        return 0

    def remove(self, function: Function) -> int | Blocked:
        """Unplugs the device, as its file `remove` does. Waits as an unbind does."""

        def pull(function: Function) -> int | Blocked:
            result = self._detach(function) if function.driver is not None else 0
            if isinstance(result, Waiting):
                waited = result

                def poll() -> int | None:
                    done = waited.poll()
                    if done is not None:
                        self._pull(function)
                    return done

                return Waiting(result.until, poll)
            self._pull(function)
            return 0

        return self._with(str(function.address), pull)

    def virtual(self, physical: Function) -> list[Function]:
        """Returns the virtual functions of `physical` that are present."""
        return [function for function in physical.virtual if function in self.functions]

    def set_virtual(self, physical: Function, number: int) -> int | Blocked:
        """Sets sriov_numvfs. Raises Errno: ERANGE, ENOENT without a driver, EBUSY while there are virtual functions.

        0 unplugs each virtual function. It needs no driver here, since the virtual functions of the first boot were
        made by no driver. New virtual functions of a device that vfio-pci has are bound to vfio-pci.
        """
        there = self.virtual(physical)
        if number > len(physical.virtual):
            raise Errno(errno.ERANGE)
        if number == len(there):
            return 0
        if physical.driver is None and number:
            raise Errno(errno.ENOENT)
        if there and number:
            raise Errno(errno.EBUSY)
        if number:
            for function in physical.virtual[:number]:
                if physical.driver is not None and physical.driver.is_vfio:
                    function.driver_override = physical.driver.name
                if function.port is not None:
                    function.port.functions.append(function)
            self.add(physical.virtual[:number])
            self._changed()
            return 0
        waited: Waiting | None = None

        def pull_all() -> int | None:
            nonlocal waited
            while True:
                if waited is not None and waited.poll() is None:
                    return None
                waited = None
                if not there:
                    return 0
                result = self.remove(there.pop())
                if isinstance(result, Waiting):
                    waited = result

        if pull_all() is None:
            return Waiting("every file of the virtual functions is closed", pull_all)
        return 0

    def rescan(self) -> int | Blocked:
        """Finds removed functions again, except for virtual functions, which `set_virtual` makes."""
        found, self._removed = self._removed, []
        for function in found:
            if function.port is not None:
                function.port.functions.append(function)
        self.add(found)
        self._changed()
        return 0

    def _pull(self, function: Function) -> None:
        self.functions.remove(function)
        if function.port is not None:
            function.port.functions.remove(function)
        function.driver_override = None
        if function.physical is None:
            self._removed.append(function)
        self._changed()

    def _with(self, name: str, action: Callable[[Function], int | Blocked]) -> int | Blocked:
        """Runs `action` on the device as soon as no unbind is in progress there."""
        function = next((each for each in self.functions if str(each.address) == name), None)
        if function is None:
            raise Errno(errno.ENODEV)
        if not function.unbinding:
            return action(function)
        following: Waiting | None = None

        def poll() -> int | None:
            nonlocal following
            if following is None:
                if function.unbinding:
                    return None
                result = action(function)
                if isinstance(result, int):
                    return result
                assert isinstance(result, Waiting), "what waits can be asked"
                following = result
            return following.poll()

        return Waiting(f"the unbind of {function.address} that came before is done", poll)

    def _probe(self, function: Function) -> None:
        if function.driver is not None:
            return
        for driver in self.all.values():
            if _matches(driver, function) and self._try(driver, function):
                return

    def _try(self, driver: Driver, function: Function) -> bool:
        try:
            self._attach(driver, function)
        except Errno as failure:
            self._around.log(f"{driver.name} {function.address}: probe failed with error {-failure.code}")
            return False
        return True

    def _attach(self, driver: Driver, function: Function) -> None:
        """Attaches the driver.

        Raises Errno(EPERM) when a user, or a carried domain, owns the DMA of the device's group.
        """
        if driver.is_vfio:
            self._around.devices.register(function, self._around)
        else:
            function.group.claim_for_kernel()
        function.driver = driver
        self._changed()

    def _detach(self, function: Function) -> int | Blocked:
        vfio = self._around.devices.of(function)
        if vfio is None or not vfio.files:
            self._gone(function)
            return 0
        function.unbinding = True
        vfio.unregistered = lambda: self._gone(function)
        if vfio.interrupts is not None:
            vfio.interrupts.request()
        self._changed()
        return Waiting(
            f"every file of {function.address} is closed, live update's too",
            lambda: None if function.unbinding else 0,
        )

    def _gone(self, function: Function) -> None:
        if function.driver is not None and function.driver.is_vfio:
            self._around.devices.unregister(function)
        else:
            function.group.unclaim_for_kernel()
        function.driver = None
        function.unbinding = False
        self._changed()


def _matches(driver: Driver, function: Function) -> bool:
    return driver.matches(function.device.description, function.driver_override)


def _parse_id(words: str) -> tuple[int, int]:
    """Returns the ids in `vendor device …`, hexadecimal. Raises Errno(EINVAL)."""
    parts = words.split()
    try:
        vendor, device, *rest = (int(part, 16) for part in parts)
    except ValueError:
        raise Errno(errno.EINVAL) from None
    if any(not 0 <= number <= _ANY for number in (vendor, device, *rest)):
        raise Errno(errno.EINVAL)
    return vendor, device
