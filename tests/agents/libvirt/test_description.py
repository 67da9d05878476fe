"""What luod adds to libvirt's description of a domain, and how it finds that again."""

from __future__ import annotations

import pytest

from luod.agents.libvirt.description import ARGUMENT, COMMAND_LINE, differences, read
from luod.errors import QemuRefusal
from tests.agents.libvirt.domains import PLAIN, described

RAM = "/run/luod/libvirt/web.ram"
MEBIBYTES = 2049
"""The memory of the domain, in whole MiB."""


def arguments(text: str) -> list[str]:
    """Returns the arguments in XML for QEMU."""
    import xml.etree.ElementTree as ElementTree

    return [each.get("value", "") for each in ElementTree.fromstring(text).iterfind(f"{COMMAND_LINE}/{ARGUMENT}")]


def test_memory_is_rounded_up_as_libvirt_does() -> None:
    assert described().ram_bytes == MEBIBYTES << 20


def test_a_domain_is_started_on_the_memory_at_a_path() -> None:
    assert arguments(described().started(RAM, incoming=False)) == [
        "-object",
        f"memory-backend-file,id=luod-ram,size={MEBIBYTES << 20},mem-path={RAM},share=on",
        "-machine",
        "memory-backend=luod-ram",
        "-only-migratable",
    ]


def test_in_the_next_kernel_it_waits_for_its_state() -> None:
    assert arguments(described().started(RAM, incoming=True))[-2:] == ["-incoming", "defer"]


@pytest.mark.parametrize("incoming", [False, True])
def test_what_luod_added_is_taken_from_a_running_domain_again(incoming: bool) -> None:
    plain = described()
    assert not plain.of_luod

    found = read(plain.started(RAM, incoming=incoming))

    assert (found.of_luod, found.incoming) == (True, incoming)
    assert found.text == plain.text


def test_an_argument_of_the_owner_stays() -> None:
    own = "<qemu:commandline><qemu:arg value='-no-hpet'/></qemu:commandline>"
    plain = described(last=own)

    found = read(plain.started(RAM, incoming=False))

    assert arguments(found.text) == ["-no-hpet"]
    assert found.of_luod


def test_the_user_that_a_domain_names_itself_counts() -> None:
    label = "<seclabel type='static' model='dac' relabel='yes'><label>+107:+108</label></seclabel>"
    assert described(last=label).label("dac") == "+107:+108"
    assert described(last=label.replace("static", "dynamic")).label("dac") is None
    assert described().label("dac") is None


@pytest.mark.parametrize("text", ["", "<domain", "<pool><name>web</name></pool>"])
def test_what_is_no_description_of_a_domain_is_refused(text: str) -> None:
    with pytest.raises(QemuRefusal):
        read(text)


@pytest.mark.parametrize("memory", ["<memory unit='KiB'>0</memory>", "<memory unit='lakh'>1</memory>", ""])
def test_memory_that_is_not_understood_is_refused(memory: str) -> None:
    text = described().text.replace('<memory unit="KiB">2097153</memory>', memory)
    assert text != described().text
    with pytest.raises(QemuRefusal, match="memory is not understood"):
        _ = read(text).ram_bytes


RNG = "<rng model='virtio'><backend model='random'>/dev/urandom</backend>{}</rng>"
PLACE = "<address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/>"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ({}, {"devices": RNG.format(PLACE)}, "<rng> 0x05 0x0000 0x0 0x00 was added"),
        ({"devices": RNG.format(PLACE)}, {}, "<rng> 0x05 0x0000 0x0 0x00 is missing"),
        ({"cpu": "<feature policy='require' name='vmx'/>"}, {}, "<cpu> is"),
        ({"disk": "<serial>1</serial>"}, {"disk": "<serial>2</serial>"}, "<disk> vda is"),
    ],
)
def test_another_machine_than_the_guest_had_is_noticed(old: dict[str, str], new: dict[str, str], says: str) -> None:
    (found,) = differences(described(**old), described(**new))
    assert found.startswith(says)


@pytest.mark.parametrize(
    "changed",
    [
        PLAIN.replace("web.qcow2", "elsewhere.qcow2"),
        PLAIN.replace("<source network='default'/>", "<source bridge='br0'/><target dev='vnet7'/>"),
        PLAIN.replace("type='network'", "type='bridge'"),
        PLAIN.replace("/usr/bin/qemu-system-x86_64", "/usr/bin/kvm"),
    ],
)
def test_what_the_guest_does_not_see_may_be_elsewhere(changed: str) -> None:
    assert changed != PLAIN
    empty = dict.fromkeys(("domain", "os", "firmware", "cpu", "driver", "disk", "devices", "last"), "")
    assert differences(described(), read(changed.format(**empty, balloon="none"))) == ()


def test_each_of_several_devices_that_are_alike_counts() -> None:
    channel = "<channel type='pty'><target type='virtio' name='{}'/></channel>"
    before = described(devices="".join(channel.format(name) for name in ("a", "b", "c", "d")))
    now = described(devices="".join(channel.format(name) for name in ("a", "b", "x", "d")))
    assert len(before.hardware()) == len(described().hardware()) + 4
    assert [each.partition(" is ")[0] for each in differences(before, now)] == ["<channel> pty (2)"]
