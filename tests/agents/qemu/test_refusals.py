"""What cannot be carried is refused before anything is started, with the reason and the remedy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from luod.agents.qemu import refusals
from luod.agents.qemu.options import split
from luod.errors import QemuRefusal
from tests.agents.qemu import qemus

REFUSED: dict[str, list[list[str]]] = {
    "help": [
        ["-help"],
        ["-version"],
        ["-device", "help"],
        ["-M", "?"],
        ["-device", "e1000,help"],
        ["-dump-vmstate", "f"],
    ],
    "daemonize": [["-daemonize"]],
    "incoming": [["-incoming", "defer"], ["-incoming", "file:state"]],
    "loadvm": [["-loadvm", "before"]],
    "preconfig": [["--preconfig"]],
    "readconfig": [["-readconfig", "guest.cfg"]],
    "set": [["-set", "device.net0.mac=52:54:00:00:00:01"]],
    "qtest": [["-qtest", "stdio"]],
    "xen": [["-accel", "xen"], ["-xen-domid", "1"], ["-M", "pc,accel=kvm:xen"]],
    "chroot": [["-chroot", "/empty"], ["-run-with", "chroot=/empty"]],
    "exit-with-parent": [["-run-with", "exit-with-parent=on"]],
    "inherited-files": [
        ["-add-fd", "fd=3,set=1"],
        ["-netdev", "tap,id=n,fd=3"],
        ["-netdev", "tap,id=n,fds=3:4,vhostfds=5:6"],
        ["-netdev", '{"type":"tap","id":"n","fd":"3"}'],
        ["-netdev", "stream,id=n,addr.type=fd,addr.str=3"],
        ["-chardev", "socket,id=c,fd=3"],
        ["-drive", "file=/dev/fdset/1,format=raw"],
        ["-blockdev", "file,node-name=d,filename=/proc/self/fd/3"],
        ["-hda", "/dev/fd/3"],
        ["-device", "vhost-vsock-pci,guest-cid=3,vhostfd=4"],
        ["-device", "vfio-pci,fd=3"],
    ],
    "own-name": [["-chardev", "null,id=luod-qmp"], ["-object", "iothread,id=luod-ram"]],
    "hugetlb": [
        ["-object", "memory-backend-memfd,id=m,size=1G,hugetlb=on"],
        ["-object", "memory-backend-file,id=m,size=1G,mem-path=/dev/hugepages"],
        ["-mem-path", "/dev/hugepages"],
    ],
    "discard-data": [["-object", "memory-backend-file,id=m,size=1G,mem-path=/dev/shm/m,share=on,discard-data=on"]],
    "mem-path": [["-mem-path", "/dev/shm"]],
    "memory-backend": [
        ["-object", "memory-backend-memfd,id=m,size=1G,share=on"],
        ["-object", "memory-backend-ram,id=m,size=1G"],
        ["-object", '{"qom-type":"memory-backend-file","id":"m","size":1073741824,"mem-path":"/dev/shm/m"}'],
        ["-M", "q35,memory-backend=m"],
    ],
    "memory-hotplug": [["-m", "1G,slots=2,maxmem=4G"], ["-M", "pc,nvdimm=on"], ["-M", "q35,memory.max-size=4G"]],
    "memory-device": [
        ["-device", "pc-dimm,memdev=m"],
        ["-device", "nvdimm,memdev=m"],
        ["-device", "virtio-pmem-pci,memdev=m"],
        ["-device", "ivshmem-plain,memdev=m"],
        ["-device", "cxl-type3,volatile-memdev=m"],
    ],
    "virtio-mem": [["-device", "virtio-mem-pci,memdev=m"], ["-device", '{"driver":"virtio-mem-pci","memdev":"m"}']],
    "balloon": [["-device", "virtio-balloon"], ["-device", "virtio-balloon-pci,free-page-reporting=on"]],
    "numa": [["-numa", "node,memdev=m"], ["-numa", "node,mem=512M"], ["-numa", "node"]],
    "confidential": [
        ["-object", "sev-guest,id=s,cbitpos=47,reduced-phys-bits=1"],
        ["-M", "q35,confidential-guest-support=s"],
        ["-M", "q35,sgx-epc.0.memdev=m"],
    ],
    "vfio": [["-device", "vfio-pci,host=01:00.0"], ["-device", '{"driver":"vfio-pci","host":"01:00.0"}']],
    "vdpa": [
        ["-netdev", "vhost-vdpa,id=n,vhostdev=/dev/vhost-vdpa-0"],
        ["-device", "vhost-vdpa-device-pci,vhostdev=/d"],
    ],
    "iommufd": [["-object", "iommufd,id=i"]],
    "tpm-passthrough": [["-tpmdev", "passthrough,id=t"]],
    "shared-directory": [
        ["-virtfs", "local,path=/srv,mount_tag=t,security_model=none"],
        ["-fsdev", "local,id=f,path=/srv,security_model=none"],
        ["-device", "virtio-9p-pci,fsdev=f,mount_tag=t"],
        ["-device", "vhost-user-fs-pci,chardev=c,tag=t"],
    ],
    "temporary-disk": [["-snapshot"], ["-drive", "file=a.img,snapshot=on"]],
    "unwritten-disk": [
        ["-drive", "file=a.img,cache=unsafe"],
        ["-drive", "file=a.img,cache.no-flush=on"],
        ["-blockdev", '{"driver":"file","node-name":"d","filename":"a.img","cache":{"no-flush":true}}'],
    ],
    "vvfat": [
        ["-hdb", "fat:rw:/srv"],
        ["-drive", "file=fat:/srv"],
        ["-blockdev", "vvfat,node-name=d,dir=/srv"],
        ["fat:/srv"],
    ],
    "replay": [["-icount", "shift=auto,rr=record,rrfile=f"]],
}
CARRIED = [
    ["-device", "virtio-net-pci,netdev=n,addr=3", "-netdev", "tap,id=n,ifname=tap0,script=no,vhost=on"],
    ["-drive", "file=a.img,format=raw,cache=none,aio=native", "-cdrom", "b.iso"],
    ["-kernel", "bzImage", "-initrd", "initrd", "-append", "fd=3 help ?"],
    ["-m", "1G,slots=0", "-mem-prealloc", "-overcommit", "mem-lock=on"],
    ["-M", "q35,usb=on", "-accel", "kvm", "-cpu", "host,+invtsc", "-smp", "2,maxcpus=4"],
    ["-object", "iothread,id=i", "-object", "rng-random,id=r,filename=/dev/urandom"],
    ["-device", "vmgenid,guid=auto", "-tpmdev", "emulator,id=t,chardev=c"],
    ["-run-with", "async-teardown=on", "-runas", "nobody", "-pidfile", "help", "-name", "guest=help"],
    ["-vnc", ":1", "-display", "none", "-nographic", "-monitor", "unix:/run/m,server,nowait"],
]


@pytest.mark.parametrize(("name", "arguments"), [(name, each) for name, rows in REFUSED.items() for each in rows])
def test_what_cannot_be_carried_is_refused_for_its_reason(name: str, arguments: list[str]) -> None:
    (row,) = (row for row in refusals.TABLE if row.name == name)
    (option,) = split(arguments)

    assert row.found(option)
    with pytest.raises(QemuRefusal) as caught:
        refusals.check(option)
    assert row.reason in caught.value.message
    assert caught.value.hint == row.remedy


@pytest.mark.parametrize("arguments", CARRIED)
def test_what_can_be_carried_is_not_refused(arguments: list[str]) -> None:
    for option in split(arguments):
        refusals.check(option)


def test_each_row_is_shown_by_a_command_line() -> None:
    assert [row.name for row in refusals.TABLE] == list(REFUSED)


@pytest.mark.parametrize("which", qemus.WHICH)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-device", "virtio-crypto-pci,cryptodev=c", "-object", "cryptodev-backend-builtin,id=c"], "not migratable"),
    ],
)
def test_what_qemu_cannot_save_it_refuses_at_its_start(which: str, arguments: list[str], said: str) -> None:
    """So the table needs no row for each such device: luod starts every QEMU with -only-migratable."""
    words = [qemus.path(which), "-m", "64M", "-display", "none", "-S", "-only-migratable", *arguments]

    ended = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)

    assert ended.returncode == 1
    assert said in ended.stderr


def test_a_numa_node_needs_memory_of_its_own() -> None:
    words = [qemus.path("installed"), "-m", "64M", "-display", "none", "-S", "-numa", "node"]

    ended = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)

    assert "should equal RAM size" in ended.stderr


def test_the_documentation_has_each_row() -> None:
    text = (Path(__file__).parents[3] / "docs/qemu.md").read_text()

    for row in refusals.TABLE:
        reason, remedy = (part[0].upper() + part[1:] for part in (row.reason, row.remedy))
        assert f"| `{row.name}` | " in text
        assert f" | {reason} | {remedy} |" in text
