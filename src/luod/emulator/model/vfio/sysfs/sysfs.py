"""The part of /sys with PCI devices, drivers, iommu groups and VFIO devices, and the writes to it.

Paths are relative to /sys. The nodes of a device are made again when its driver changes. Contents are made when they
are read. `binding.py` executes the requests.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from luod.emulator.model.ports import Errno
from luod.emulator.model.results import Blocked
from luod.emulator.model.vfio.binding import Drivers
from luod.emulator.model.vfio.driver import Driver
from luod.emulator.model.vfio.function import Function, Port
from luod.emulator.model.vfio.hardware.config_space import SIZE as CONFIG_SIZE
from luod.emulator.model.vfio.hardware.description import Reset
from luod.emulator.model.vfio.iommu.group import IommuGroup
from luod.emulator.model.vfio.iommu.memory import MSI_FIRST, MSI_LAST
from luod.emulator.model.vfio.sysfs import contents
from luod.emulator.model.vfio.vfio_pci.pci_core import VfioDevices

_MAJOR: Final = 511
"""The major number of vfioN: one that the kernel allocates dynamically."""


@dataclass(frozen=True)
class Directory:
    """A directory with the entries `names`."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Link:
    """A symbolic link; `target` is relative to the directory it is in."""

    target: str


@dataclass(frozen=True)
class Attribute:
    """A file. `mode` is its permissions."""

    mode: int
    read: Callable[[], bytes] | None = None
    write: Callable[[str], int | Blocked] | None = None
    """Accepts all written bytes, as text: each character is one byte (latin-1)."""
    write_at: Callable[[int, bytes], int] | None = None
    """Accepts bytes at an offset, and returns how many it took. For binary files."""


Node = Directory | Link | Attribute


class Sysfs:
    """The tree of one boot."""

    def __init__(
        self, drivers: Drivers, devices: VfioDevices, ports: Iterable[Port], groups: Iterable[IommuGroup]
    ) -> None:
        """`ports` and `groups` stay the same over the whole boot."""
        self._drivers = drivers
        self._devices = devices
        self._made_for = -1
        self._nodes: dict[str, Attribute | Link] = {}
        self._directories: dict[str, dict[str, None]] = {"": {}}
        self._made: dict[Function, tuple[object, list[str]]] = {}
        """For each device what its nodes depend on, and their paths."""
        self._paths: list[str] = []
        """The paths that `_add` has added."""
        self._add_permanent(ports, groups)
        self._permanent = frozenset(self._directories)

    def lookup(self, path: str) -> Node:
        """Returns the node at `path`; links are not followed. Raises Errno(ENOENT)."""
        self._refresh()
        if path in self._directories:
            return Directory(tuple(self._directories[path]))
        if path not in self._nodes:
            raise Errno(errno.ENOENT)
        return self._nodes[path]

    def read(self, path: str) -> bytes:
        """Returns the whole contents. Raises Errno: ENOENT, EISDIR, and EIO for a file that cannot be read."""
        attribute = self._attribute(path)
        if attribute.read is None:
            raise Errno(errno.EIO)
        return attribute.read()

    def write(self, path: str, data: bytes, offset: int = 0) -> int | Blocked:
        """Writes, and returns how many bytes were taken: all of text.

        Raises Errno: ENOENT, EISDIR, EIO, and those of the request. A write that sleeps returns a `Waiting`; its `poll`
        returns 0 for success.
        """
        attribute = self._attribute(path)
        if attribute.write_at is not None:
            return attribute.write_at(offset, data)
        if attribute.write is None:
            raise Errno(errno.EIO)
        result = attribute.write(data.decode("latin-1"))
        return result if isinstance(result, Blocked) else len(data)

    def _attribute(self, path: str) -> Attribute:
        node = self.lookup(path)
        if isinstance(node, Directory):
            raise Errno(errno.EISDIR)
        if isinstance(node, Link):
            raise Errno(errno.EINVAL)
        return node

    def _refresh(self) -> None:
        """Removes the nodes of changed devices and adds them again."""
        if self._made_for == self._drivers.generation:
            return
        self._made_for = self._drivers.generation
        virtual = self._drivers.virtual
        wanted = {
            function: (
                function.driver,
                function.unbinding,
                function.remove_written,
                self._devices.usable(function),
                virtual(function),
            )
            for function in self._drivers.functions
        }
        for function, (dependencies, paths) in tuple(self._made.items()):
            if wanted.get(function) != dependencies:
                del self._made[function]
                for path in paths:
                    self._remove(path)
        for function, dependencies in wanted.items():
            if function not in self._made:
                self._paths = []
                self._add_function(function)
                self._made[function] = (dependencies, self._paths)

    def _remove(self, path: str) -> None:
        """Removes a node, and the directories that become empty."""
        del self._nodes[path]
        while path not in self._permanent and not self._directories.get(path):
            self._directories.pop(path, None)
            path, _, name = path.rpartition("/")
            del self._directories[path][name]

    def _add_permanent(self, ports: Iterable[Port], groups: Iterable[IommuGroup]) -> None:
        drivers = self._drivers
        for directory in ("bus/pci/devices", "bus/pci/slots", "kernel/iommu_groups", "class/vfio-dev", "class/vfio"):
            self._directory(directory)
        self._add("bus/pci/drivers_probe", _written(drivers.probe))
        self._add("bus/pci/drivers_autoprobe", _shown("1"))
        self._add("bus/pci/rescan", _written(lambda words: drivers.rescan() if contents.is_one(words) else 0))
        for driver in drivers.all.values():
            self._add_driver(driver)
        for port in ports:
            self._add_port(port)
        for group in groups:
            top = f"kernel/iommu_groups/{group.number}"
            self._add(f"{top}/type", _shown("DMA"))
            self._add(f"{top}/name", _shown(""))
            self._add(f"{top}/reserved_regions", _shown(f"{MSI_FIRST:#018x} {MSI_LAST:#018x} msi"))
            self._directory(f"{top}/devices")

    def _directory(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        if path and path not in self._directories:
            self._directories[path] = {}
            self._directory(parent)
            self._directories[parent][name] = None

    def _add(self, path: str, node: Attribute | Link) -> None:
        parent, _, name = path.rpartition("/")
        self._directory(parent)
        self._directories[parent][name] = None
        self._nodes[path] = node
        self._paths.append(path)

    def _link(self, path: str, target: str) -> None:
        """Adds a link; `target` is a path from the root of the tree."""
        self._add(path, Link("../" * path.count("/") + target))

    def _add_driver(self, driver: Driver) -> None:
        drivers = self._drivers
        top = f"bus/pci/drivers/{driver.name}"
        self._add(f"{top}/bind", _written(lambda words: drivers.bind(driver, words)))
        self._add(f"{top}/unbind", _written(lambda words: drivers.unbind(driver, words)))
        self._add(f"{top}/new_id", _written(lambda words: drivers.new_id(driver, words)))
        self._add(f"{top}/remove_id", _written(lambda words: drivers.remove_id(driver, words)))

    def _add_port(self, port: Port) -> None:
        top = _port_path(port)
        self._link(f"bus/pci/devices/{port.address}", top)
        self._link(f"{top}/subsystem", "bus/pci")
        self._link(f"{top}/driver", "bus/pci/drivers/pcieport")
        self._link(f"bus/pci/drivers/pcieport/{port.address}", top)
        for name, text in (
            ("vendor", f"{contents.BRIDGE_VENDOR:#06x}"),
            ("device", f"{contents.BRIDGE_DEVICE:#06x}"),
            ("subsystem_vendor", "0x0000"),
            ("subsystem_device", "0x0000"),
            ("class", f"{contents.BRIDGE_CLASS:#08x}"),
            ("revision", "0x00"),
            ("irq", "0"),
            ("numa_node", "-1"),
            ("secondary_bus_number", str(port.bus)),
            ("subordinate_bus_number", str(port.bus)),
        ):
            self._add(f"{top}/{name}", _shown(text))
        self._add(f"{top}/config", Attribute(0o644, lambda: contents.bridge_config(port)))
        self._add(f"{top}/resource", _shown("\n".join(["0x0000000000000000 " * 2 + "0x0000000000000000"] * 17)))

    def _add_function(self, function: Function) -> None:
        drivers = self._drivers
        device = function.device
        description = device.description
        top = function_path(function)
        self._link(f"bus/pci/devices/{function.address}", top)
        self._link(f"{top}/subsystem", "bus/pci")
        group = f"kernel/iommu_groups/{function.group.number}"
        self._link(f"{top}/iommu_group", group)
        self._link(f"{group}/devices/{function.address}", top)
        for name, text in (
            ("vendor", f"{description.vendor:#06x}"),
            ("device", f"{description.device:#06x}"),
            ("subsystem_vendor", f"{description.vendor:#06x}"),
            ("subsystem_device", f"{description.device:#06x}"),
            ("class", f"{description.class_code:#08x}"),
            ("revision", "0x01"),
            ("irq", "11" if device.config.has_interrupt_pin else "0"),
            ("numa_node", "-1"),
            ("modalias", contents.modalias(function)),
        ):
            self._add(f"{top}/{name}", _shown(text))
        config = Attribute(
            0o644,
            lambda: device.config.read(0, CONFIG_SIZE),
            write_at=lambda offset, data: contents.configure(device, offset, data),
        )
        self._add(f"{top}/config", config)
        self._add(f"{top}/resource", Attribute(0o444, lambda: contents.resources(function)))
        self._add(f"{top}/enable", Attribute(0o644, lambda: b"%d\n" % bool(device.config.command & 0x3)))
        self._add(f"{top}/power_state", Attribute(0o444, lambda: b"D3hot\n" if device.config.power_state else b"D0\n"))
        self._add(f"{top}/uevent", Attribute(0o644, lambda: contents.uevent(function)))
        self._add(
            f"{top}/driver_override",
            Attribute(
                0o644,
                lambda: (function.driver_override or "(null)").encode("latin-1") + b"\n",
                lambda text: contents.override(function, text),
            ),
        )
        if not function.remove_written:
            remove = _written(lambda words: drivers.remove(function) if contents.is_one(words) else 0)
            self._add(f"{top}/remove", remove)
        if description.reset is not Reset.NONE:
            self._add(f"{top}/reset", _written(lambda words: drivers.reset(contents.chosen(function, words))))
        if function.driver is not None and not function.unbinding:
            self._link(f"{top}/driver", f"bus/pci/drivers/{function.driver.name}")
            self._link(f"bus/pci/drivers/{function.driver.name}/{function.address}", top)
        if function.virtual:
            self._add(f"{top}/sriov_totalvfs", _shown(str(len(function.virtual))))
            there = drivers.virtual(function)
            self._add(
                f"{top}/sriov_numvfs",
                Attribute(
                    0o644,
                    lambda: b"%d\n" % len(drivers.virtual(function)),
                    lambda text: drivers.set_virtual(function, contents.number(_line(text), bits=16)),
                ),
            )
            for index, virtual in enumerate(there):
                self._link(f"{top}/virtfn{index}", function_path(virtual))
        if function.physical is not None:
            self._link(f"{top}/physfn", function_path(function.physical))
        vfio = self._devices.usable(function)
        if vfio is not None:
            name = f"vfio{vfio.index}"
            self._add(f"{top}/vfio-dev/{name}/dev", _shown(f"{_MAJOR}:{vfio.index}"))
            self._link(f"{top}/vfio-dev/{name}/device", top)
            self._link(f"{top}/vfio-dev/{name}/subsystem", "class/vfio-dev")
            self._link(f"class/vfio-dev/{name}", f"{top}/vfio-dev/{name}")


def _port_path(port: Port) -> str:
    return f"devices/pci{port.address.domain:04x}:00/{port.address}"


def function_path(function: Function) -> str:
    """Returns the path of the device itself."""
    if function.port is None:
        return f"devices/pci{function.address.domain:04x}:00/{function.address}"
    return f"{_port_path(function.port)}/{function.address}"


def _shown(text: str) -> Attribute:
    return Attribute(0o444, lambda: text.encode() + b"\n")


def _written(write: Callable[[str], int | Blocked]) -> Attribute:
    """Returns a file that is only written: a word, or a word and a newline."""
    return Attribute(0o200, None, lambda text: write(_line(text)))


def _line(text: str) -> str:
    return text.partition("\0")[0].removesuffix("\n")
