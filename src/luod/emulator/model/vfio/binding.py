"""Binds drivers to devices, at boot and later: driver_override, new_id, bind, unbind, drivers_probe, remove, rescan.

Writes to the files of those names (`sysfs`) end here. An unbind from a VFIO driver waits until no file of the device is
open, and holds the lock of the device until then. A request that needs the lock waits for it. Drivers are described in
`driver.py`. The order of checks is that of drivers/pci/pci-driver.c and drivers/base/dd.c of Linux 7.3.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Generator, Iterable
from typing import Final

from luod.emulator.model.ports import Errno
from luod.emulator.model.results import Blocked, Waiting
from luod.emulator.model.vfio.driver import VFIO_PCI, Driver
from luod.emulator.model.vfio.function import Function
from luod.emulator.model.vfio.vfio_pci.pci_core import Surroundings

_ANY: Final = 0xFFFFFFFF
_IDS: Final = re.compile(r"\s*((?:0x)?[0-9a-f]+)\s+((?:0x)?[0-9a-f]+)", re.ASCII | re.IGNORECASE)
Steps = Generator[Callable[[], bool], None, int]
"""A request that may wait. It yields a condition that has to be true before it continues, and returns its result."""


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
        self._probes = True
        self._turns: list[object] = []
        """The removes and rescans that are under way: the first one has pci_rescan_remove_lock, the others wait."""

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

    def shut_down(self, stop: Callable[[Function], None]) -> Steps:
        """Runs `stop` on each device, as device_shutdown() does: on the last one first, once its lock is free.

        From now on no device gets a driver.
        """
        self._probes = False
        stopped: set[Function] = set()
        while left := [function for function in self.functions if function not in stopped]:
            function = left[-1]
            stopped.add(function)
            yield from _unlocked(function)
            stop(function)
        return 0

    # Requests of user space. A `name` is an address, as written.

    def bind(self, driver: Driver, name: str) -> int | Blocked:
        """Binds `driver`.

        Raises Errno: ENODEV (no such device, or not of its kind), EBUSY (bound, or another owner has its group).
        """
        function = self._find(name)
        if not _matches(driver, function):
            raise Errno(errno.ENODEV)
        return _run(function, self._bind(driver, function))

    def _bind(self, driver: Driver, function: Function) -> Steps:
        yield from _unlocked(function)
        if function not in self.functions:
            raise Errno(errno.ENODEV)
        if function.driver is not None:
            raise Errno(errno.EBUSY)
        if not _matches(driver, function):
            raise Errno(errno.ENODEV)
        self._attach(driver, function)
        return 0

    def unbind(self, driver: Driver, name: str) -> int | Blocked:
        """Unbinds `driver`, once no file of the device is open.

        Raises Errno(ENODEV) when the device has another driver. A second request during the first succeeds too.
        """
        function = self._find(name)
        if function.driver is not driver:
            raise Errno(errno.ENODEV)
        return _run(function, self._unbind(driver, function))

    def _unbind(self, driver: Driver, function: Function) -> Steps:
        yield from _unlocked(function)
        if function.driver is driver:
            yield from self._release(function)
        return 0

    def probe(self, name: str) -> int | Blocked:
        """Probes one device (drivers_probe).

        Raises Errno: ENODEV, EINVAL when a driver accepts the device and cannot have it. A device that has a driver, or
        that no driver accepts, is not an error.
        """
        function = self._find(name)
        return 0 if function.driver is not None else _run(function, self._probe_one(function))

    def _probe_one(self, function: Function) -> Steps:
        yield from _unlocked(function)
        if function in self.functions and not self._probe(function):
            raise Errno(errno.EINVAL)
        return 0

    def new_id(self, driver: Driver, words: str) -> int | Blocked:
        """Adds a pair of ids to `driver`, and probes the devices that match it. Raises Errno: EINVAL, EEXIST."""
        identifier = _parse_id(words)
        if identifier in driver.dynamic:
            raise Errno(errno.EEXIST)
        driver.dynamic.append(identifier)
        matching = [function for function in self.functions if _matches(driver, function)]
        return _run(matching[0], self._probe_all(driver, matching)) if matching else 0

    def _probe_all(self, driver: Driver, functions: list[Function]) -> Steps:
        for function in functions:
            yield from _unlocked(function)
            if function in self.functions and function.driver is None and _matches(driver, function):
                self._try(driver, function)
        return 0

    def remove_id(self, driver: Driver, words: str) -> int | Blocked:
        """Removes a pair of ids. Bound devices stay bound. Raises Errno: EINVAL, ENODEV."""
        identifier = _parse_id(words)
        if identifier not in driver.dynamic:
            raise Errno(errno.ENODEV)
        driver.dynamic.remove(identifier)
        return 0

    def reset(self, function: Function) -> int | Blocked:
        """Resets the device. Raises the errnos of the reset."""

        def do() -> Steps:
            yield from _unlocked(function)
            function.device.reset()
            return 0

        return _run(function, do())

    def remove(self, function: Function) -> int | Blocked:
        """Unplugs the device, as its file `remove` does, which is gone at once. Waits as an unbind does.

        Other removes and rescans wait for its end.
        """
        function.remove_written = True
        self._changed()
        return _run(function, self._in_turn(self._unplug(function)))

    def _in_turn(self, steps: Steps) -> Steps:
        """Runs a remove or a rescan after all that were asked for before."""
        turn = object()
        self._turns.append(turn)
        while self._turns[0] is not turn:
            yield lambda: self._turns[0] is turn
        try:
            return (yield from steps)
        finally:
            self._turns.remove(turn)

    def _unplug(self, function: Function) -> Steps:
        """Removes the device. Where another request does so already, waits for its end; one that is gone is no error.

        The virtual functions of a physical function go first.
        """
        if function.removing:
            yield lambda: not function.removing
        elif function in self.functions:
            function.removing = True
            yield from _unlocked(function)
            while function.driver is not None:  # perhaps one that was bound in the meantime, as in Linux
                yield from self._release(function)
                yield from _unlocked(function)
            yield from self._unplug_virtual(function)
            self._pull(function)
        return 0

    def _unplug_virtual(self, physical: Function) -> Steps:
        for function in self.virtual(physical):
            yield from self._unplug(function)
        return 0

    def virtual(self, physical: Function) -> list[Function]:
        """Returns the virtual functions of `physical` that are present."""
        return [function for function in physical.virtual if function in self.functions]

    def set_virtual(self, physical: Function, number: int) -> int | Blocked:
        """Sets sriov_numvfs. Raises Errno: ERANGE, ENOENT without a driver, EBUSY while there are virtual functions.

        0 unplugs each virtual function. It needs no driver here, since the virtual functions of the first boot were
        made by no driver. New virtual functions of a device that vfio-pci has are bound to vfio-pci.
        """
        if number > len(physical.virtual):
            raise Errno(errno.ERANGE)
        return _run(physical, self._set_virtual(physical, number))

    def _set_virtual(self, physical: Function, number: int) -> Steps:
        yield from _unlocked(physical)
        there = self.virtual(physical)
        if number == len(there):
            return 0
        if not number:
            physical.locked = True
            yield from self._unplug_virtual(physical)
            physical.locked = False
            return 0
        if physical.driver is None:
            raise Errno(errno.ENOENT)
        if there:
            raise Errno(errno.EBUSY)
        for function in physical.virtual[:number]:
            if physical.driver.is_vfio:
                function.driver_override = physical.driver.name
            if function.port is not None:
                function.port.functions.append(function)
        self.add(physical.virtual[:number])
        self._changed()
        return 0

    def rescan(self) -> int | Blocked:
        """Finds removed functions again, except for virtual functions, which `set_virtual` makes.

        Waits for removes and rescans that are under way.
        """
        return run("every remove and rescan before has ended", self._in_turn(self._find_removed()))

    def _find_removed(self) -> Steps:
        yield from ()
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
        function.removing = function.remove_written = False
        if function.physical is None:
            self._removed.append(function)
        self._changed()

    def _find(self, name: str) -> Function:
        """Returns the device at an address. Raises Errno(ENODEV)."""
        function = next((each for each in self.functions if str(each.address) == name), None)
        if function is None:
            raise Errno(errno.ENODEV)
        return function

    def _probe(self, function: Function) -> bool:
        """Attaches the first driver that accepts the device. Returns False when one accepts it and cannot have it."""
        accepting = [driver for driver in self.all.values() if function.driver is None and _matches(driver, function)]
        return not accepting or any(self._try(driver, function) for driver in accepting)

    def _try(self, driver: Driver, function: Function) -> bool:
        try:
            self._attach(driver, function)
        except Errno:
            return False
        return True

    def _attach(self, driver: Driver, function: Function) -> None:
        """Attaches the driver.

        Raises Errno when the DMA of the device's group has an owner: EBUSY for a user, EPERM for a carried domain; and
        EAGAIN once the devices are shut down.
        """
        if not self._probes:
            raise Errno(errno.EAGAIN)
        if driver.is_vfio:
            self._around.devices.register(function, self._around)
        else:
            function.group.claim_for_kernel()
        function.driver = driver
        self._changed()

    def _release(self, function: Function) -> Steps:
        """Unbinds the driver of a device whose lock is free.

        A VFIO driver removes the virtual functions of the device first, and then waits for every file.
        """
        function.locked = True
        vfio = self._around.devices.of(function)
        if vfio is not None and (vfio.files or self.virtual(function)):
            function.unbinding = True
            self._changed()
            yield from self._unplug_virtual(function)
            if vfio.files:
                vfio.unregistered = lambda: self._gone(function)
                if vfio.interrupts is not None:
                    vfio.interrupts.request()
                self._changed()
                yield lambda: not function.unbinding
                return 0
        self._gone(function)
        return 0

    def _gone(self, function: Function) -> None:
        if function.driver is not None and function.driver.is_vfio:
            self._around.devices.unregister(function)
        else:
            function.group.unclaim_for_kernel()
        function.driver = None
        function.unbinding = False
        function.locked = False
        self._changed()


def _run(function: Function, steps: Steps) -> int | Waiting:
    """Runs a request for `function` as far as it can go now. Raises its Errno."""
    return run(f"every file of {function.address} is closed, live update's too", steps)


def run(until: str, steps: Steps) -> int | Waiting:
    """Runs a request as far as it can go now. `until` describes the event for which it may wait. Raises its Errno."""

    def begin() -> bool:
        return True

    condition: Callable[[], bool] = begin

    def poll() -> int | None:
        nonlocal condition
        while condition():
            try:
                condition = next(steps)
            except StopIteration as end:
                return int(end.value)
        return None

    result = poll()
    if result is not None:
        return result
    return Waiting(until, poll)


def _unlocked(function: Function) -> Steps:
    """Waits until no request holds the lock of the device."""
    while function.locked:
        yield lambda: not function.locked
    return 0


def _matches(driver: Driver, function: Function) -> bool:
    return driver.matches(function.device.description, function.driver_override)


def _parse_id(words: str) -> tuple[int, int]:
    """Returns the ids in `vendor device …`, hexadecimal, as sscanf reads them. Raises Errno(EINVAL)."""
    found = _IDS.match(words)
    if found is None:
        raise Errno(errno.EINVAL)
    return int(found[1], 16) & _ANY, int(found[2], 16) & _ANY
