"""How devices are described, and what cannot be: addresses, options, buses, groups."""

from __future__ import annotations

import pytest

from luod.emulator.model.vfio.hardware.description import (
    Address,
    DeviceDescription,
    Option,
    Reset,
    describe,
    parse_device,
)
from tests.emulator.model.vfio.machine import A, B, Vmm, power_on

EVERYTHING = (
    "0001:1f:1d.7,vendor=0x8086,device=0x10d3,class=0x020000,bars=16K+1M+4096,msix=8,group=7,driver=nvme,"
    "reset=fails-later,acs-quirk"
)


def test_an_address_is_parsed_and_shown_in_small_letters() -> None:
    address = Address.parse("0001:1F:1d.7")
    assert (address.domain, address.bus, address.slot, address.function) == (1, 0x1F, 0x1D, 7)
    assert str(address) == "0001:1f:1d.7"
    assert address.devfn == 0xEF


@pytest.mark.parametrize("text", ["", "01:00.0", "0000:01:00.8", "0000:01:20.0", "0000:01:00.0 ", "0000:01:00"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no PCI address: write it as 0000:01:00\.0"):
        Address.parse(text)


def test_a_device_in_words() -> None:
    assert parse_device(A) == DeviceDescription(Address(0, 1, 0, 0))
    assert parse_device(EVERYTHING) == DeviceDescription(
        Address(1, 0x1F, 0x1D, 7),
        vendor=0x8086,
        device=0x10D3,
        class_code=0x020000,
        bars=(0x4000, 1 << 20, 4096),
        msix=8,
        group=7,
        driver="nvme",
        reset=Reset.FAILS_LATER,
        acs_quirk=True,
    )
    display = parse_device(f"0000:01:00.1,display,vf-of={A}")
    assert display.display
    assert display.vf_of == Address.parse(A)


def test_a_device_from_a_file() -> None:
    options: dict[str, Option] = {
        "vendor": 0x8086,
        "device": "0x10d3",
        "bars": ["16K", 65536],
        "display": True,
        "acs-quirk": False,
    }
    assert describe(A, options) == DeviceDescription(
        Address.parse(A), vendor=0x8086, device=0x10D3, bars=(0x4000, 65536), class_code=0x030000
    )
    assert describe(A, {"bars": "32K"}).bars == (0x8000,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("colour=red", "a device has no 'colour'"),
        ("vendor=intel", "vendor is a number, such as 4 or 0x10f0, and not 'intel'"),
        ("vendor", "vendor is a number"),
        ("msix=257", "0 to 256 MSI-X vectors, and not 257"),
        ("msi=3", "0, 1, 2, 4, 8, 16 or 32 MSI vectors, and not 3"),
        ("bars=8K", "the first BAR has the registers and cannot be smaller than 16K"),
        ("bars=20K", "a BAR's size is a power of two, 4K to 256M, and not 20480"),
        ("bars=512M", "a power of two"),
        ("bars=16K+x", "bars are sizes such as 16K or 1M, and not 'x'"),
        ("bars=16K+4K+4K+4K+4K+4K+4K", "a device has 1 to 6 BARs"),
        ("driver=a/b", "driver is a name"),
        ("driver", "driver is a name"),
        ("display=yes", "display is said or left out"),
        ("reset=maybe", "reset is one of works, none, fails-later, and not 'maybe'"),
        ("vf-of=1", "is no PCI address"),
        ("vf-of=0000:01:00.0", "cannot be its own virtual function"),
        ("msix=1,msix=2", "'msix' is given twice"),
    ],
)
def test_what_is_no_device(words: str, message: str) -> None:
    with pytest.raises(ValueError, match="^.*" + message.replace("(", r"\(")):
        parse_device(f"{A},{words}")


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ((A, A), "0000:01:00.0 is described twice"),
        ((f"{B},vf-of={A}",), "is a virtual function of 0000:01:00.0, which is not described"),
        ((A, f"{B},vf-of={A}", f"0000:03:00.0,vf-of={B}"), "which is one itself"),
        (tuple(f"0000:{bus:02x}:00.0" for bus in range(1, 33)), "domain 0000 has no slot left"),
    ],
)
def test_devices_that_cannot_be_in_one_machine(devices: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        power_on(*devices)


def test_every_bus_has_a_root_port_that_keeps_out_of_the_way() -> None:
    world = power_on("0000:00:01.0", "0000:05:00.0", "0000:05:00.1", "0000:07:03.0", "0001:02:00.0")
    vmm = Vmm(world)
    assert vmm.listing("bus/pci/devices") == (
        "0000:00:02.0",
        "0000:00:03.0",
        "0001:00:01.0",
        "0000:00:01.0",
        "0000:05:00.0",
        "0000:05:00.1",
        "0000:07:03.0",
        "0001:02:00.0",
    )
    assert vmm.resolve("bus/pci/devices/0000:07:03.0") == "devices/pci0000:00/0000:00:03.0/0000:07:03.0"
    assert vmm.resolve("bus/pci/devices/0000:00:01.0") == "devices/pci0000:00/0000:00:01.0"
    world.switch_off()


def test_groups_are_numbered_around_those_that_were_asked_for() -> None:
    world = power_on(A, f"{B},group=2", "0000:03:00.0", "0000:04:00.0,group=2")
    groups = {str(place.address): place.group for place in world.bus.places}
    assert groups == {A: 1, B: 2, "0000:03:00.0": 3, "0000:04:00.0": 2}
    world.switch_off()
