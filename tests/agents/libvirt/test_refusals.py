"""What of a domain cannot be carried is refused with the reason and the remedy, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.agents.libvirt import refusals
from luod.errors import QemuRefusal
from tests.agents.libvirt.domains import described

REFUSED: dict[str, list[dict[str, str]]] = {
    "hypervisor": [],  # below: the type is no part of the description that can be left open
    "arguments": [{"last": "<qemu:commandline><qemu:arg value='-no-hpet'/></qemu:commandline>"}],
    "memory-backing": [
        {"domain": f"<memoryBacking>{each}</memoryBacking>"}
        for each in (
            "<source type='memfd'/>",
            "<access mode='shared'/>",
            "<allocation mode='immediate'/>",
            "<hugepages/>",
            "<discard/>",
        )
    ],
    "locked-memory": [{"domain": "<memoryBacking><locked/></memoryBacking>"}],
    "numa": [{"cpu": "<numa><cell id='0' cpus='0-1' memory='2' unit='GiB'/></numa>"}],
    "numatune": [{"domain": "<numatune><memory mode='strict' nodeset='0'/></numatune>"}],
    "memory-hotplug": [{"domain": "<maxMemory slots='4' unit='GiB'>8</maxMemory>"}],
    "memory-device": [
        {"devices": "<memory model='dimm'><target><size unit='MiB'>512</size></target></memory>"},
        {"devices": "<shmem name='shared'><model type='ivshmem-plain'/></shmem>"},
    ],
    "balloon": [{"balloon": "virtio"}],
    "confidential": [{"last": "<launchSecurity type='sev'/>"}],
    "passthrough": [
        {"devices": "<hostdev mode='subsystem' type='pci' managed='yes'/>"},
        {"devices": "<interface type='hostdev'/>"},
        {"devices": "<interface type='vdpa'/>"},
        {"devices": "<disk type='nvme' device='disk'/>"},
        {"devices": "<disk type='vhostvdpa' device='disk'/>"},
    ],
    "shared-directory": [{"devices": "<filesystem type='mount'/>"}],
    "tpm": [{"devices": "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"}],
    "firmware": [
        {"firmware": "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>"},
        {"firmware": "<nvram>/var/lib/libvirt/qemu/nvram/web.fd</nvram>"},
        {"os": " firmware='efi'"},
    ],
    "temporary-disk": [{"disk": "<transient/>"}],
    "unwritten-disk": [{"driver": " cache='unsafe'"}],
    "directory-disk": [{"devices": "<disk type='dir' device='floppy'/>"}],
}
CARRIED = [
    {},
    {"domain": "<memoryBacking><nosharepages/></memoryBacking>"},
    {"domain": "<iothreads>1</iothreads>", "driver": " cache='none' io='native'"},
    {"devices": "<graphics type='vnc' port='-1' autoport='yes'/><video><model type='virtio'/></video>"},
    {"devices": "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"},
    {"firmware": "<loader type='rom'>/usr/share/seabios/bios.bin</loader>"},
]


@pytest.mark.parametrize(("name", "parts"), [(name, each) for name, rows in REFUSED.items() for each in rows])
def test_what_cannot_be_carried_is_refused_for_its_reason(name: str, parts: dict[str, str]) -> None:
    (row,) = (row for row in refusals.TABLE if row.name == name)

    with pytest.raises(QemuRefusal) as caught:
        refusals.check(described(**parts))

    assert f"{row.what}: {row.reason}" in caught.value.message
    assert row.remedy in caught.value.hint
    assert [found.name for found in refusals.found(described(**parts))] == [name]


def test_a_domain_of_another_hypervisor_is_refused() -> None:
    domain = described()
    xen = type(domain)(domain.text.replace('type="kvm"', 'type="xen"'), of_luod=False, incoming=False)
    assert [found.name for found in refusals.found(xen)] == ["hypervisor"]


def test_all_reasons_are_named_at_once() -> None:
    with pytest.raises(QemuRefusal, match=r"<memballoon>: .*<tpm>: ") as caught:
        refusals.check(described(balloon="virtio", **REFUSED["tpm"][0]))
    assert caught.value.hint.startswith("`virsh edit web`: ")


@pytest.mark.parametrize("parts", CARRIED)
def test_what_can_be_carried_is_not_refused(parts: dict[str, str]) -> None:
    refusals.check(described(**parts))


def test_each_row_is_shown_by_a_domain() -> None:
    assert [row.name for row in refusals.TABLE] == list(REFUSED)


def test_the_documentation_has_each_row() -> None:
    text = (Path(__file__).parents[3] / "docs/libvirt.md").read_text()
    for row in refusals.TABLE:
        reason, remedy = (part[0].upper() + part[1:] for part in (row.reason, row.remedy))
        assert f"| `{row.name}` | `{row.what}` | {reason} | {remedy} |" in text
