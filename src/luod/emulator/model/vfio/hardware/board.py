"""The board with every device of a machine: root ports, bus numbers, iommu groups, and the memory of the BARs.

It exists once for all boots. A bus other than a domain's first is behind a root port of its own. As in real ones, the
number of the bus is in a register of the port, and the next kernel may use or change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luod.emulator.model.vfio.hardware.config_space import ConfigSpace
from luod.emulator.model.vfio.hardware.description import Address, DeviceDescription
from luod.emulator.model.vfio.hardware.device import Device
from luod.emulator.model.vfio.ports import DeviceHost

_MEMORY_FIRST = 0xC0000000
_SLOTS = 32


@dataclass(eq=False)
class RootPort:
    """A bridge. Its place never changes; `bus` is the number of the bus behind it."""

    domain: int
    slot: int
    bus: int


@dataclass(frozen=True)
class Place:
    """A device and its slot. `group` is the number of its iommu group."""

    device: Device
    port: RootPort | None
    group: int

    @property
    def address(self) -> Address:
        """Returns the address, with the present number of the bus."""
        described = self.device.description.address
        bus = described.bus if self.port is None else self.port.bus
        return Address(described.domain, bus, described.slot, described.function)


class Board:
    """Owns the memory of every device until `close`."""

    def __init__(self, host: DeviceHost, devices: Sequence[DeviceDescription]) -> None:
        """Raises ValueError for devices that cannot be in one machine."""
        check(devices)
        ports = _plug(devices)
        groups = _number_groups(devices)
        virtual = [description.vf_of for description in devices]
        self.ports = tuple(ports[key] for key in sorted(ports))
        places = []
        memory = _MEMORY_FIRST
        for description in sorted(devices, key=lambda each: each.address):
            addresses = []
            for size in description.bars:
                memory = -(-memory // size) * size
                addresses.append(memory & 0xFFFFFFFF)
                memory += size
            address = description.address
            config = ConfigSpace(description, tuple(addresses), virtual.count(address))
            bars = host.allocate(str(address), description.bars)
            port = ports.get((address.domain, address.bus))
            places.append(Place(Device(description, config, bars), port, groups[address]))
        self.places = tuple(places)

    def close(self) -> None:
        """Frees the memory of every device: the machine is switched off."""
        for place in self.places:
            place.device.close()


def check(devices: Sequence[DeviceDescription]) -> None:
    """Raises ValueError, with a message for the user, for devices that cannot be on one board."""
    addresses = [description.address for description in devices]
    for address in addresses:
        if addresses.count(address) > 1:
            raise ValueError(f"{address} is described twice")
    described = {description.address: description for description in devices}
    for description in devices:
        physical = description.vf_of
        if physical is None:
            continue
        if physical not in described:
            raise ValueError(f"{description.address} is a virtual function of {physical}, which is not described")
        if described[physical].vf_of is not None:
            raise ValueError(f"{description.address} is a virtual function of {physical}, which is one itself")
    _plug(devices)


def _plug(devices: Sequence[DeviceDescription]) -> dict[tuple[int, int], RootPort]:
    """Returns a root port for each bus, by (domain, bus)."""
    ports: dict[tuple[int, int], RootPort] = {}
    for domain, bus in sorted({(each.address.domain, each.address.bus) for each in devices if each.address.bus}):
        taken = {each.address.slot for each in devices if (each.address.domain, each.address.bus) == (domain, 0)}
        taken |= {port.slot for port in ports.values() if port.domain == domain}
        slot = next((slot for slot in range(1, _SLOTS) if slot not in taken), None)
        if slot is None:
            raise ValueError(f"domain {domain:04x} has no slot left for the root port of bus {bus:02x}")
        ports[domain, bus] = RootPort(domain, slot, bus)
    return ports


def _number_groups(devices: Sequence[DeviceDescription]) -> dict[Address, int]:
    """Returns the configured group numbers, and for the other devices the lowest free ones from 1 on."""
    taken = {description.group for description in devices}
    numbers: dict[Address, int] = {}
    following = 1
    for description in sorted(devices, key=lambda each: each.address):
        number = description.group
        if number is None:
            while following in taken:
                following += 1
            number = following
            following += 1
        numbers[description.address] = number
    return numbers
