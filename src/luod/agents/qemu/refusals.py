"""What of a QEMU's command line cannot be carried through a kernel update, with the reason and the remedy of each.

One table, read by `command_line.plan` before anything is started. It looks at one option at a time and at no running
QEMU: what a guest was given later is `live`. docs/qemu.md has the same table for people, with what is carried; a test
compares the names of the rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from luod.agents.guests.live import OWN
from luod.agents.qemu.options import DISKS, IMPLIED, Option
from luod.errors import QemuRefusal
from luod.frozen import frozen

_FILES_BY_NUMBER: Final = frozenset(["fd", "fds", "vhostfd", "vhostfds", "sock_fd", "sock-fd"])
_FILE_BY_NUMBER: Final = re.compile(r"(?:/dev/fdset|/dev/fd|/proc/self/fd)/|fd:\d")
_HELP: Final = ("help", "?")
_HELPFUL: Final = IMPLIED.keys() - {"name", "smbios", "acpitable", "fw_cfg"} | {"L", "d", "vga"}


@frozen
class Refusal:
    """One row: options that `found` returns true for are refused. `remedy` says what to do instead."""

    name: str
    reason: str
    remedy: str
    found: Callable[[Option], bool]

    def raised(self, option: Option) -> QemuRefusal:
        """Returns the error for `option`."""
        return QemuRefusal(f"{str(option)[:200]}: {self.reason}", hint=self.remedy)


def check(option: Option) -> None:
    """Raises QemuRefusal: `option` cannot be carried."""
    for row in TABLE:
        if row.found(option):
            raise row.raised(option)


def _named(*names: str) -> Callable[[Option], bool]:
    known = frozenset(names)
    return lambda option: option.name in known


def _device(*beginnings: str) -> Callable[[Option], bool]:
    """Returns whether an option is a device whose driver begins so: virtio-mem is also virtio-mem-pci."""
    return lambda option: option.name == "device" and option.kind.startswith(beginnings)


def _object(*beginnings: str) -> Callable[[Option], bool]:
    return lambda option: option.name == "object" and option.kind.startswith(beginnings)


def _network(*kinds: str) -> Callable[[Option], bool]:
    return lambda option: option.name in ("netdev", "nic", "net") and option.kind in kinds


def _machine(*keys: str) -> Callable[[Option], bool]:
    return lambda option: (
        option.name in ("machine", "M")
        and any(key == name or key.startswith(f"{name}.") for key, _ in option.parameters.items for name in keys)
    )


def _of(option: Option, name: str, *keys: str) -> bool:
    return option.name == name and any(key in option.parameters for key in keys)


def _temporary(option: Option) -> bool:
    return option.name == "snapshot" or (option.name == "drive" and option.parameters.is_on("snapshot"))


def _unwritten(option: Option) -> bool:
    given = option.parameters
    cached = option.name == "drive" and given.get("cache") == "unsafe"
    return cached or (
        option.name in ("drive", "blockdev")
        and any(key.endswith("cache.no-flush") and value in ("on", "true", "yes", "y") for key, value in given.items)
    )


def _inherited(option: Option) -> bool:
    if option.name == "add-fd" or (option.name in DISKS | {""} and _FILE_BY_NUMBER.match(option.value)):
        return True
    for key, value in option.parameters.items:
        name = key.rpartition(".")[2]
        if option.name in (
            "netdev",
            "nic",
            "net",
            "device",
            "object",
            "chardev",
            "fsdev",
            "virtfs",
            "drive",
            "blockdev",
        ):
            if name in _FILES_BY_NUMBER or (name == "type" and value == "fd" and "." in key):
                return True
            if option.name != "device" and _FILE_BY_NUMBER.match(value):
                return True
    return False


def _hotplug(option: Option) -> bool:
    slots = option.parameters.get("slots", "0")
    return option.name == "m" and ("maxmem" in option.parameters or slots != "0")


def _huge(option: Option) -> bool:
    given = option.parameters
    return (
        option.name == "object"
        and option.kind.startswith("memory-backend")
        and (given.is_on("hugetlb") or "hugetlbsize" in given or "hugepages" in given.get("mem-path"))
    )


def _prints_help(option: Option) -> bool:
    if option.name in ("h", "help", "version", "audio-help", "dump-vmstate"):
        return True
    if option.name in _HELPFUL:
        return option.value in _HELP or option.kind in _HELP or any(key in _HELP for key, _ in option.parameters.items)
    return False


def _xen(option: Option) -> bool:
    accelerators = option.parameters.get("accel").split(":")
    return option.name.startswith("xen-") or (option.name in ("accel", "machine", "M") and "xen" in accelerators)


def _own(option: Option) -> bool:
    given = option.parameters
    return any(key in ("id", "node-name") and value.startswith(OWN) for key, value in given.items)


_LEAVE_OUT_RAM: Final = (
    "leave the back end and memory-backend= out: luod gives the guest RAM in a memfd, of the size of -m"
)
_NO_PASSTHROUGH: Final = (
    "use an emulated device: QEMU cannot hand a device over to a QEMU in the next kernel, also where the kernel can "
    "(docs/vfio.md)"
)

TABLE: Final[tuple[Refusal, ...]] = (
    Refusal("help", "QEMU prints and exits", "run QEMU itself for this", _prints_help),
    Refusal(
        "daemonize",
        "QEMU would leave the process that takes its part in updates",
        "leave it out; the unit luod-qemu@.service runs a guest in the background",
        _named("daemonize"),
    ),
    Refusal(
        "incoming",
        "luod gives QEMU the state to load",
        "leave it out; `luoctl qemu restore` loads the guest",
        _named("incoming"),
    ),
    Refusal(
        "loadvm",
        "a QEMU in the next kernel would go back to this snapshot",
        "leave it out, and load the snapshot when the guest runs (`loadvm` in the monitor)",
        _named("loadvm"),
    ),
    Refusal(
        "preconfig",
        "QEMU would wait for further configuration, which is not on its command line",
        "write the configuration as options",
        _named("preconfig"),
    ),
    Refusal(
        "readconfig",
        "the options in this file are not on the command line that is kept for the next kernel",
        "write them as options",
        _named("readconfig"),
    ),
    Refusal(
        "set",
        "it changes another option, so that neither shows what the guest has",
        "write the value into the option itself",
        _named("set"),
    ),
    Refusal("qtest", "the guest does not run by itself", "leave it out", _named("qtest", "qtest-log")),
    Refusal("xen", "the RAM of a guest of Xen is not in a memfd", "use -accel kvm or -accel tcg", _xen),
    Refusal(
        "chroot",
        "QEMU could not open the file of its state, /proc/self/fd/N, in the other root directory",
        "confine it from outside, such as by RootDirectory= of a unit",
        lambda option: option.name == "chroot" or _of(option, "run-with", "chroot"),
    ),
    Refusal(
        "exit-with-parent",
        "the guest would end with the process that started it",
        "leave it out",
        lambda option: _of(option, "run-with", "exit-with-parent"),
    ),
    Refusal(
        "inherited-files",
        "a file that QEMU inherits by number does not exist in the next kernel",
        "name the file, the socket or the interface, so that QEMU can open it again (ifname= for a tap)",
        _inherited,
    ),
    Refusal("own-name", f"names that begin with {OWN!r} are luod's", "use another name", _own),
    # RAM
    Refusal(
        "hugetlb",
        "memory of hugetlbfs cannot be preserved",
        "leave it out; luod asks for transparent huge pages for the RAM",
        lambda option: _huge(option) or (option.name == "mem-path" and "huge" in option.value),
    ),
    Refusal(
        "discard-data",
        "QEMU destroys this memory when it ends",
        "leave the back end out; luod gives the guest its RAM",
        lambda option: _of(option, "object", "discard-data"),
    ),
    Refusal(
        "mem-path",
        "this memory is not in a memfd that luod preserves",
        "leave it out; luod gives the guest its RAM",
        _named("mem-path"),
    ),
    Refusal(
        "memory-backend",
        "luod preserves one memory, the guest's RAM, which it makes itself; that of another back end is lost or copied",
        _LEAVE_OUT_RAM,
        lambda option: _object("memory-backend-")(option) or _machine("memory-backend")(option),
    ),
    Refusal(
        "memory-hotplug",
        "memory that is added later is another back end, and what is removed punches holes into preserved memory",
        "leave slots= and maxmem= out, and give the guest all its RAM at its start",
        lambda option: _hotplug(option) or _machine("nvdimm", "memory")(option),
    ),
    Refusal(
        "memory-device",
        "it has memory of its own, and luod preserves the guest's RAM only",
        "give the guest the memory by -m",
        _device("pc-dimm", "nvdimm", "virtio-pmem", "ivshmem", "cxl-", "sgx-"),
    ),
    Refusal(
        "virtio-mem",
        "it plugs and unplugs memory, which punches holes into preserved memory",
        "give the guest all its RAM at its start",
        _device("virtio-mem"),
    ),
    Refusal(
        "balloon",
        "a balloon, and free page reporting, punch holes into the guest's RAM, which the kernel refuses for preserved "
        "memory: the guest would believe that it returned memory",
        "leave the device out",
        _device("virtio-balloon"),
    ),
    Refusal(
        "numa",
        "each node would have a back end of its own, and luod preserves one",
        "leave -numa out",
        _named("numa"),
    ),
    Refusal(
        "confidential",
        "the RAM is encrypted by a key that ends with the running kernel",
        "run this guest without memory encryption, or evacuate it",
        lambda option: (
            _object("sev-", "tdx-", "igvm-")(option)
            or _machine("confidential-guest-support", "memory-encryption", "sgx-epc", "cxl-fmw")(option)
        ),
    ),
    # devices of the host
    Refusal(
        "vfio", "the device is passed through from the host", _NO_PASSTHROUGH, _device("vfio-", "vfio_", "iommufd")
    ),
    Refusal(
        "vdpa",
        "the network device is passed through from the host",
        "use a tap: -netdev tap,ifname=NAME,script=no",
        lambda option: _network("vhost-vdpa")(option) or _device("vhost-vdpa")(option),
    ),
    Refusal(
        "iommufd",
        "devices of the host are passed through by it",
        _NO_PASSTHROUGH,
        _object("iommufd", "x-vfio", "x-remote"),
    ),
    Refusal(
        "tpm-passthrough",
        "the TPM is the host's, and QEMU cannot save its state",
        "use swtpm: -tpmdev emulator",
        lambda option: option.name == "tpmdev" and option.kind == "passthrough",
    ),
    Refusal(
        "shared-directory",
        "QEMU cannot save a guest that has such a directory mounted",
        "use a network file system",
        lambda option: option.name in ("virtfs", "fsdev") or _device("virtio-9p", "vhost-user-fs")(option),
    ),
    # disks
    Refusal(
        "temporary-disk",
        "what the guest writes is in a temporary file, which ends with QEMU",
        "make the file yourself: qemu-img create -f qcow2 -F FORMAT -b IMAGE FILE",
        _temporary,
    ),
    Refusal(
        "unwritten-disk",
        "with this cache QEMU does not wait until the disk has what the guest wrote, and a kexec writes nothing back",
        "use cache=writeback",
        _unwritten,
    ),
    Refusal(
        "vvfat",
        "QEMU makes this disk from a directory, in memory, when it starts",
        "make an image of the directory",
        lambda option: (
            (option.name == "blockdev" and option.kind == "vvfat")
            or any(
                value.startswith("fat:")
                for key, value in (("", option.value), *option.parameters.items)
                if option.name in DISKS | {"", "drive"}
            )
        ),
    ),
    Refusal(
        "replay",
        "a recording cannot be continued by another QEMU",
        "leave rr= out",
        lambda option: _of(option, "icount", "rr"),
    ),
)
