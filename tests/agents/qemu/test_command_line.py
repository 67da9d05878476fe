"""What a guest is started by: read from any command line, and understood by the real QEMUs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from luod.agents.qemu.capabilities import Capabilities
from luod.agents.qemu.command_line import Disk, Plan, drivers, has_version, plan
from luod.agents.qemu.options import CHARACTER_DEVICES, FLAGS, IMPLIED, PLAIN
from luod.errors import QemuRefusal
from luod.liveupdate import memory
from tests.agents.qemu import qemus

SOME = Capabilities(
    program="/usr/bin/qemu-system-x86_64",
    version="7.2.22",
    machines=("isapc", "pc-i440fx-7.2", "pc-q35-6.2", "pc-q35-7.2"),
    aliases=(("pc", "pc-i440fx-7.2"), ("q35", "pc-q35-7.2")),
    default_machine="pc-i440fx-7.2",
)


def planned(*arguments: str, machine: str = "") -> Plan:
    return plan(["-m", "64M", *arguments], SOME, machine=machine)


@pytest.mark.parametrize(
    ("arguments", "machine"),
    [
        ([], "pc-i440fx-7.2"),
        (["-M", "q35"], "pc-q35-7.2"),
        (["-machine", "type=q35,accel=tcg"], "pc-q35-7.2"),
        (["-machine", "pc", "-machine", "accel=tcg", "-M", "q35"], "pc-q35-7.2"),
        (["-machine", "pc-q35-6.2"], "pc-q35-6.2"),
        (["-machine", "isapc"], "isapc"),
    ],
)
def test_the_machine_type_gets_its_version(arguments: list[str], machine: str) -> None:
    assert planned(*arguments).machine == machine


def test_a_guest_that_has_run_stays_on_its_machine_type() -> None:
    assert planned("-M", "q35", machine="pc-q35-6.2").machine == "pc-q35-6.2"


@pytest.mark.parametrize("machine", ["pc-q35-11.1", "none", "nonsense"])
def test_a_machine_type_that_this_qemu_does_not_have_is_refused(machine: str) -> None:
    with pytest.raises(QemuRefusal, match=machine):
        planned("-M", machine)
    with pytest.raises(QemuRefusal, match=machine):
        planned("-M", "q35", machine=machine)


def test_a_device_that_this_qemu_does_not_have_is_refused() -> None:
    lacking = Capabilities(*{**vars(SOME), "lacks": ("e9000",)}.values())

    with pytest.raises(QemuRefusal, match="has no device e9000"):
        plan(["-m", "64", "-device", "e9000"], lacking)


def test_only_names_with_a_version_are_the_same_in_every_qemu() -> None:
    assert [has_version(name) for name in ("pc-q35-7.2", "virt-11.1", "microvm", "q35")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("size", "mebibytes"),
    [("128", 128), ("128M", 128), ("2G", 2048), ("1.5g", 1536), ("65536k", 64), ("size=64", 64), ("67108864b", 64)],
)
def test_the_size_of_the_ram_is_read_as_qemu_reads_it(size: str, mebibytes: int) -> None:
    assert plan(["-m", size], SOME).ram_bytes == mebibytes << 20


def test_later_options_of_memory_are_merged() -> None:
    assert plan(["-m", "size=1G", "-m", "64"], SOME).ram_bytes == 64 << 20


@pytest.mark.parametrize("size", ["", "0", "-1", "64.5", "1X", "0x40", "x" * 500, "9" * 30, "9E", "٣"])
def test_a_size_that_qemu_would_not_take_is_refused(size: str) -> None:
    with pytest.raises(QemuRefusal, match=r"-m|RAM"):
        plan(["-m", size], SOME)


def test_a_guest_without_a_size_is_refused() -> None:
    with pytest.raises(QemuRefusal, match="not given") as caught:
        plan([], SOME)

    assert "-m" in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "disks"),
    [
        (["a.img"], [Disk("a.img", "raw", False)]),
        (["-hda", "a.img", "-cdrom", "b.iso"], [Disk("a.img", "", False), Disk("b.iso", "", True)]),
        (["-drive", "file=a,,b.qcow2,format=qcow2,readonly=on"], [Disk("a,b.qcow2", "qcow2", True)]),
        (["-drive", "if=none,id=empty"], []),
        (["-blockdev", "qcow2,node-name=d,file.driver=file,file.filename=a"], [Disk("a", "qcow2", False)]),
        (["-blockdev", '{"driver":"file","node-name":"f","filename":"a","read-only":true}'], [Disk("a", "", True)]),
        (["-blockdev", "driver=raw,node-name=d,file=f"], []),
    ],
)
def test_the_disks_are_listed(arguments: list[str], disks: list[Disk]) -> None:
    assert planned(*arguments).disks == tuple(disks)


def test_the_drivers_of_devices_are_listed_once() -> None:
    devices = ["-device", "virtio-blk-pci,drive=d", "-device", '{"driver":"e1000"}', "-device", "e1000"]

    assert drivers(devices) == ("e1000", "virtio-blk-pci")


def test_a_loading_qemu_waits_for_no_client_and_empties_no_file() -> None:
    first = planned(
        "-mem-prealloc", "-serial", "unix:/run/s,server", "-serial", "file:/var/log/a,b", "-chardev",
        "file,id=c,path=/c", "-chardev", "socket,id=d,path=/d,server=on,wait=off,logfile=/l",
    )  # fmt: skip

    before, after = (first.launch(3, 4, incoming=incoming) for incoming in (False, True))

    assert "-mem-prealloc" in before
    assert "-mem-prealloc" not in after
    assert "unix:/run/s,server,wait=off" in after
    assert "file,id=luod-serial-5,path=/var/log/a,,b,append=on" in after
    assert "chardev:luod-serial-5" in after
    assert "file,id=c,path=/c,append=on" in after
    assert "socket,id=d,path=/d,server=on,wait=off,logfile=/l,logappend=on" in after
    assert [word for word in before if "wait=off" in word or "append" in word] == [
        "socket,id=d,path=/d,server=on,wait=off,logfile=/l"
    ]


@pytest.mark.parametrize("which", qemus.WHICH)
@pytest.mark.parametrize(
    "arguments",
    [
        ["-M", "q35"],
        ["-machine", "type=pc,accel=tcg", "-smp", "2"],
        ["-nodefaults", "-device", "virtio-rng-pci", "-netdev", "user,id=n", "-device", "e1000,netdev=n"],
        ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("incoming", [False, True])
def test_the_real_qemu_runs_what_is_planned(which: str, arguments: list[str], incoming: bool) -> None:
    found = qemus.capabilities(which)
    guest = plan(["-m", "64M", "-display", "none", *arguments], found)

    with memory(guest.ram_bytes) as ram, qemus.started(guest, ram, incoming=incoming) as monitor:
        status = asyncio.run(qemus.asked(monitor, "query-status"))

    assert isinstance(status, dict)
    assert status["status"] == ("inmigrate" if incoming else "running")


@pytest.mark.parametrize("which", qemus.WHICH)
def test_a_loading_qemu_keeps_what_the_first_one_wrote_to_its_files(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a path of a socket is short
    first, second, debug = (tmp_path / name for name in ("a,b", "c", "d"))
    for file in (first, second, debug):
        file.write_text("of the first QEMU")
    arguments = ["-serial", f"file:{first}", "-chardev", f"file,id=c,path={second}", "-debugcon", f"file:{debug}"]
    arguments += ["-monitor", "unix:monitor,server"]
    guest = plan(["-m", "64M", "-display", "none", *arguments], qemus.capabilities(which))

    with memory(guest.ram_bytes) as ram, qemus.started(guest, ram, incoming=True) as monitor:
        asyncio.run(qemus.asked(monitor, "query-status"))

    assert [file.read_text() for file in (first, second, debug)] == ["of the first QEMU"] * 3


NAMES = sorted(FLAGS | PLAIN | CHARACTER_DEVICES | IMPLIED.keys())
PARTS = [
    "",
    "=",
    ",",
    ",,",
    "on",
    "off",
    "no",
    "id=",
    "file",
    "type=q35",
    "{",
    "}",
    '{"a":',
    "1]",
    '"x"',
    "fd:3",
    "size=",
]
PARTS += ["memory-backend-memfd", "virtio-balloon-pci", "64", "G", "server", "unix:", "file:", "mon:", "help", "path="]
VALUES = st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=8).map("".join)
WORDS = st.one_of(st.sampled_from([f"-{name}" for name in NAMES] + [f"--{name}" for name in NAMES]), VALUES)


@given(st.lists(WORDS, max_size=8))
@example(["-device", "{}"])
@example(["-device", '{"driver":{}}'])
@example(["-serial", ""])
@example(["-m", "1.E"])
def test_any_command_line_is_planned_or_refused(arguments: list[str]) -> None:
    found = refused = None
    try:
        found = plan(["-m", "64M", *arguments], SOME)
        drivers(arguments)
    except QemuRefusal as refusal:
        refused = refusal

    if refused is not None:
        assert refused.message
        assert refused.hint
    else:
        assert found is not None
        for incoming in (False, True):
            assert not any("\0" in word for word in found.launch(10, 11, incoming=incoming))
