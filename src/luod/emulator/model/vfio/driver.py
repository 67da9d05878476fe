"""Drivers and what binds them to devices: driver_override, new_id, bind, unbind, drivers_probe, at boot and after.

What a program writes into the files of those names (`sysfs.py`) ends here. An unbind from a VFIO driver waits until no
file of the device is open, and whatever else is asked of that device waits behind it. drivers/pci/pci-driver.c,
drivers/base/dd.c of Linux 7.3.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from luod.emulator.model.ports import Errno
from luod.emulator.model.results import Blocked, Waiting
from luod.emulator.model.vfio.function import Function
from luod.emulator.model.vfio.vfio_pci.pci_core import Surroundings, VfioDevice

VFIO_PCI: Final = "vfio-pci"
_OVERRIDE_MAXIMUM: Final = 4095
_ANY: Final = 0xFFFFFFFF


@dataclass(eq=False)
class Driver:
    """One driver of the kernel. A variant of vfio-pci has a name that ends so."""

    name: str
    dynamic: list[tuple[int, int]] = field(default_factory=list)
    """(vendor, device) pairs that new_id added."""

    @property
    def is_vfio(self) -> bool:
        return self.name.endswith(VFIO_PCI)

    @property
    def does_dma(self) -> bool:
        """Of its own accord: its device cannot be handed to a user at the same time."""
        return not self.is_vfio

    def matches(self, function: Function) -> bool:
        override = function.driver_override
        if override is not None:
            return override == self.name
        description = function.device.description
        return description.driver == self.name or (description.vendor, description.device) in self.dynamic


class Drivers:
    """Every driver of one boot. `changed` is called when a binding is made or undone."""

    def __init__(self, names: Iterable[str], around: Surroundings, changed: Callable[[], None]) -> None:
        self.all = {name: Driver(name) for name in (VFIO_PCI, *names)}
        self.functions: list[Function] = []
        """Those that are there; a removed one is not."""
        self._removed: list[Function] = []
        self._around = around
        self._changed = changed

    def add(self, functions: Iterable[Function]) -> None:
        """At boot: every device is probed."""
        for function in functions:
            self.functions.append(function)
            self._probe(function)

    def preset(self, ids: str) -> None:
        """`vfio-pci.ids=` of the command line: vendor:device pairs, before any device is found."""
        for pair in ids.split(","):
            vendor, _, device = pair.partition(":")
            try:
                self.all[VFIO_PCI].dynamic.append((int(vendor, 16), int(device.partition(":")[0], 16)))
            except ValueError:
                self._around.log(f'vfio_pci: invalid id string "{pair}"')

    @property
    def unbinding(self) -> Function | None:
        """A device that an unbind waits for."""
        return next((function for function in self.functions if function.unbinding), None)

    # What user space asks. Names are addresses, as written.

    def bind(self, driver: Driver, name: str) -> int | Blocked:
        """ENODEV (no such device, or none of its kind), EBUSY (it has a driver), and what the probe says."""

        def attach(function: Function) -> int | Blocked:
            if not driver.matches(function):
                raise Errno(errno.ENODEV)
            if function.driver is not None:
                raise Errno(errno.EBUSY)
            self._attach(driver, function)
            return 0

        return self._with(name, attach)

    def unbind(self, driver: Driver, name: str) -> int | Blocked:
        """ENODEV when the device has not that driver. Waits for its files."""

        def detach(function: Function) -> int | Blocked:
            if function.driver is not driver:
                raise Errno(errno.ENODEV)
            return self._detach(function)

        return self._with(name, detach)

    def probe(self, name: str) -> int | Blocked:
        """drivers_probe: ENODEV. That no driver wants the device is no error."""

        def look(function: Function) -> int | Blocked:
            self._probe(function)
            return 0

        return self._with(name, look)

    def override(self, function: Function, name: str) -> int | Blocked:
        """driver_override: EINVAL for what is too long; "" for none."""
        if len(name) > _OVERRIDE_MAXIMUM:
            raise Errno(errno.EINVAL)

        def store(function: Function) -> int | Blocked:
            function.driver_override = name or None
            return 0

        return self._with(str(function.address), store)

    def new_id(self, driver: Driver, words: str) -> int | Blocked:
        """EINVAL, EEXIST. Devices without a driver are probed."""
        identifier = _parse_id(words)
        if identifier in driver.dynamic:
            raise Errno(errno.EEXIST)
        driver.dynamic.append(identifier)
        for function in self.functions:
            if function.driver is None and not function.unbinding and driver.matches(function):
                self._try(driver, function)
        return 0

    def remove_id(self, driver: Driver, words: str) -> int | Blocked:
        """EINVAL, ENODEV. Whoever is bound stays so."""
        identifier = _parse_id(words)
        if identifier not in driver.dynamic:
            raise Errno(errno.ENODEV)
        driver.dynamic.remove(identifier)
        return 0

    def remove(self, function: Function) -> int | Blocked:
        """Hot unplug, as by the device's file `remove`. Waits as an unbind does."""

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
        """The virtual functions of it that are there."""
        return [function for function in physical.virtual if function in self.functions]

    def set_virtual(self, physical: Function, number: int) -> int | Blocked:
        """sriov_numvfs: ERANGE, ENOENT without a driver, EBUSY unless there are none yet.

        With 0 they go, each as if unplugged; that needs no driver here, since none made those of the beginning. New
        ones of a device that vfio-pci has are vfio-pci's.
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
        """What was removed is found again, but for virtual functions, which are made in another way."""
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
        """`action` on the device as soon as nothing else goes on there."""
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
            if driver.matches(function) and self._try(driver, function):
                return

    def _try(self, driver: Driver, function: Function) -> bool:
        try:
            self._attach(driver, function)
        except Errno as failure:
            self._around.log(f"{driver.name} {function.address}: probe failed with error {-failure.code}")
            return False
        return True

    def _attach(self, driver: Driver, function: Function) -> None:
        """Errno(EPERM): the DMA of the device's group is in the hands of a user, or of a domain that was carried."""
        if driver.is_vfio:
            taken = {each.vfio.index for each in self.functions if each.vfio is not None}
            index = next(number for number in range(len(taken) + 1) if number not in taken)
            function.vfio = VfioDevice(index, function, self._around)
        elif function.group.owner is not None:
            raise Errno(errno.EPERM)
        function.driver = driver
        self._changed()

    def _detach(self, function: Function) -> int | Blocked:
        vfio = function.vfio
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
        function.vfio = None
        function.driver = None
        function.unbinding = False
        self._changed()


def _parse_id(words: str) -> tuple[int, int]:
    """`vendor device …`, hexadecimal. Errno(EINVAL)."""
    parts = words.split()
    try:
        vendor, device, *rest = (int(part, 16) for part in parts)
    except ValueError:
        raise Errno(errno.EINVAL) from None
    if any(not 0 <= number <= _ANY for number in (vendor, device, *rest)):
        raise Errno(errno.EINVAL)
    return vendor, device
