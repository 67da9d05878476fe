"""What of a domain's description cannot be carried through a kernel update, with the reason and the remedy of each.

One table, read before a domain is started, and again before its state is written, since libvirt describes what was
plugged in too. docs/libvirt.md has the same table for people; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from xml.etree.ElementTree import Element

from luod.agents.libvirt.description import ARGUMENT, COMMAND_LINE, Description
from luod.errors import QemuRefusal
from luod.frozen import frozen


@frozen
class Refusal:
    """One row: domains that `found` returns true for are refused. `what` is in the XML, `remedy` what to do instead."""

    name: str
    what: str
    reason: str
    remedy: str
    found: Callable[[Element], bool]


def found(description: Description) -> tuple[Refusal, ...]:
    """Returns the rows for which the domain cannot be carried; () if it can be."""
    root = description.root
    return tuple(row for row in TABLE if row.found(root))


def check(description: Description) -> None:
    """Raises QemuRefusal: the domain cannot be carried. It names all that is in the way."""
    if rows := found(description):
        raise QemuRefusal(
            f"{description.name}: {'; '.join(f'{row.what}: {row.reason}' for row in rows)}",
            hint=f"`virsh edit {description.name}`: {'; '.join(dict.fromkeys(row.remedy for row in rows))}",
        )


def _has(*paths: str) -> Callable[[Element], bool]:
    return lambda root: any(root.find(path) is not None for path in paths)


_NO_PASSTHROUGH: Final = (
    "use an emulated device: QEMU cannot hand a device over to a QEMU in the next kernel, also where the kernel can"
)
_PLAIN_MEMORY: Final = "leave it out: luod gives the guest RAM in a memfd, in huge pages where the kernel has them"

TABLE: Final[tuple[Refusal, ...]] = (
    Refusal(
        "hypervisor",
        "<domain type=…> other than kvm and qemu",
        "its guest is not QEMU's",
        "use a domain of QEMU",
        lambda root: root.get("type") not in ("kvm", "qemu"),
    ),
    Refusal(
        "arguments",
        "<qemu:arg>",
        "luod cannot see in libvirt's description what the guest has by it",
        "describe it by libvirt's own elements",
        _has(f"{COMMAND_LINE}/{ARGUMENT}"),
    ),
    Refusal(
        "memory-backing",
        "<memoryBacking> with <source>, <access>, <allocation>, <hugepages> or <discard>",
        "this memory is not in a memfd that luod preserves",
        _PLAIN_MEMORY,
        _has(*(f"memoryBacking/{each}" for each in ("source", "access", "allocation", "hugepages", "discard"))),
    ),
    Refusal(
        "locked-memory",
        "<memoryBacking> with <locked>",
        "QEMU that locks memory which came from the last kernel was not tried",
        "leave it out",
        _has("memoryBacking/locked"),
    ),
    Refusal(
        "numa",
        "<numa> in <cpu>",
        "each cell has a memory back end of its own, and luod preserves one",
        "leave the cells out",
        _has("cpu/numa"),
    ),
    Refusal(
        "numatune",
        "<numatune>",
        "it places the memory of libvirt's own back end, which the guest does not have",
        "leave it out",
        _has("numatune/memory", "numatune/memnode"),
    ),
    Refusal(
        "memory-hotplug",
        "<maxMemory>",
        "memory that is added later is another back end, and what is removed punches holes into preserved memory",
        "leave it out, and give the guest all its RAM at its start",
        _has("maxMemory"),
    ),
    Refusal(
        "memory-device",
        "<memory> in <devices>, <shmem>",
        "it has memory of its own, and luod preserves the guest's RAM only",
        "give the guest the memory by <memory> of the domain",
        _has("devices/memory", "devices/shmem"),
    ),
    Refusal(
        "balloon",
        "<memballoon>",
        "a balloon punches holes into the guest's RAM, which the kernel refuses for preserved memory: the guest would "
        "believe that it returned memory",
        "write <memballoon model='none'/>: without the element libvirt adds a balloon",
        lambda root: all(balloon.get("model") != "none" for balloon in root.findall("devices/memballoon")),
    ),
    Refusal(
        "confidential",
        "<launchSecurity>",
        "the RAM is encrypted by a key that ends with the running kernel",
        "run this guest without memory encryption, or evacuate it",
        _has("launchSecurity"),
    ),
    Refusal(
        "passthrough",
        "<hostdev>, <interface type='hostdev'>, <interface type='vdpa'>, <disk type='nvme'>, <disk type='vhostvdpa'>",
        "the device is passed through from the host",
        _NO_PASSTHROUGH,
        _has(
            "devices/hostdev",
            "devices/interface[@type='hostdev']",
            "devices/interface[@type='vdpa']",
            "devices/disk[@type='nvme']",
            "devices/disk[@type='vhostvdpa']",
        ),
    ),
    Refusal(
        "shared-directory",
        "<filesystem>",
        "QEMU cannot save a guest that has such a directory mounted",
        "use a network file system",
        _has("devices/filesystem"),
    ),
    Refusal(
        "tpm",
        "<tpm>",
        "libvirt starts swtpm for each QEMU, and whether the next one has the state of the last was not tried",
        "leave it out",
        _has("devices/tpm"),
    ),
    Refusal(
        "firmware",
        "<loader type='pflash'>, <nvram>, <os firmware='efi'>",
        "firmware with variables of its own was not tried",
        "use the BIOS",
        _has("os/loader[@type='pflash']", "os/nvram", "os[@firmware]"),
    ),
    Refusal(
        "temporary-disk",
        "<transient/>",
        "what the guest writes is in a temporary file, which ends with QEMU",
        "make an overlay yourself: qemu-img create -f qcow2 -F FORMAT -b IMAGE FILE",
        _has("devices/disk/transient"),
    ),
    Refusal(
        "unwritten-disk",
        "cache='unsafe'",
        "with this cache QEMU does not wait until the disk has what the guest wrote, and a kexec writes nothing back",
        "use cache='writeback'",
        _has("devices/disk/driver[@cache='unsafe']"),
    ),
    Refusal(
        "directory-disk",
        "<disk type='dir'>",
        "QEMU makes this disk from a directory, in memory, when it starts",
        "make an image of the directory",
        _has("devices/disk[@type='dir']"),
    ),
)
