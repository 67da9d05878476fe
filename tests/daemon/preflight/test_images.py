"""Findings of preflight in images and initial RAM disks, which are files here. Without a machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from luod.daemon.preflight.devices import Devices
from luod.daemon.preflight.facts import Declaration, Facts, Host, Loading, Memory
from luod.daemon.preflight.reading import Reader
from luod.daemon.preflight.rules import judge
from luod.daemon.preflight.running import Running
from luod.daemon.preflight.subject import Subject
from luod.emulator.machine.stub import DEVICE_FORMATS, FORMATS, RELEASE, bzimage
from luod.image.contents import family_of
from luod.ipc.types.admin import Finding
from luod.ipc.types.updates import DeclaredFile, DeclaredSession
from luod.linux import Fd, memfd
from tests.image.archives import cpio

GOOD = "liveupdate=on kho=on panic=-1"
RUNNING = Running(
    {family_of(name): frozenset({name}) for name in (*FORMATS, *DEVICE_FORMATS)},
    assumed=False,
    scratch=(68 << 20, 204 << 20),
)
"""The formats that the emulated kernel writes."""


@dataclass(frozen=True)
class Found:
    findings: list[Finding]
    release: str | None


def file(content: bytes) -> Fd:
    made = memfd("image", len(content))
    with open(made.fileno(), "wb", closefd=False) as opened:
        opened.write(content)
    return made


def look(kernel: bytes, *, line: str = GOOD, initrd: bytes | None = None, kinds: Iterable[str] = ()) -> Found:
    """Reads the files, and judges them for a participant that has declared one file of each of these kinds."""
    with ExitStack() as opened:
        disk = None if initrd is None else opened.enter_context(file(initrd))
        read = Reader(RUNNING).read(Subject(opened.enter_context(file(kernel)), disk, line))
    files = [DeclaredFile(token, None, kind, 0, 0, 0, "preserved") for token, kind in enumerate(kinds)]
    facts = Facts(
        kernel=read.kernel,
        initrd=read.initrd,
        command_line=line,
        running=read.running,
        loading=Loading(),
        sessions=(),
        declarations=(Declaration("one", 1, (DeclaredSession("one", files),)),) if files else (),
        stashed=(),
        memory=Memory(Path("/nonexistent")),
        devices=Devices(),
        host=Host(("active",)),
    )
    content = read.kernel.content
    return Found(judge(facts).findings, None if content is None else content.contents.release or None)


MEMORY = """
import re, sys
from luod.daemon.preflight.reading import Reader
from luod.daemon.preflight.running import Running
from luod.daemon.preflight.subject import Subject
from luod.linux import Fd

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10

reader = Reader(Running({}, assumed=False, scratch=()))
kernel, disk = (Fd(int(number)) for number in sys.argv[1:])
before = resident()
read = reader.read(Subject(kernel, disk, "panic=1"))
assert read.initrd.content is not None
print(resident() - before)
"""


@pytest.mark.parametrize("suffix", [".ko", ".ko.xz"])
def test_what_was_unpacked_is_not_kept_in_memory(suffix: str) -> None:
    """40 MB of modules in a RAM disk, and files that are read when all modules are."""
    folder = f"usr/lib/modules/{RELEASE}"
    names = [f"kernel/m{number}{suffix}" for number in range(1000)]
    files = {f"{folder}/{name}": os.urandom(40_000) for name in names}
    files |= {f"scripts/{number}": b"#!/bin/sh\n" * 100 for number in range(1000)}
    files |= {f"{folder}/modules.dep": "".join(f"{name}:\n" for name in names).encode(), "conf/modules": b"m1\n"}
    with file(bzimage()) as kernel, file(cpio(files)) as disk:
        fds = (kernel.fileno(), disk.fileno())
        command = [sys.executable, "-c", MEMORY, *map(str, fds)]
        done = subprocess.run(command, pass_fds=fds, check=True, capture_output=True, text=True, timeout=60)
    assert int(done.stdout) < 6


def refusals(found: Found) -> list[str]:
    return [each.name for each in found.findings if each.severity == "refusal" and not each.ignored]


def warnings(found: Found) -> set[str]:
    return {each.name for each in found.findings if each.severity == "warning"}


def other(what: str) -> bytes:
    """Returns a kernel that reads another version of one format."""
    return bzimage(formats=tuple(name[:-1] + "9" if name.startswith(what) else name for name in FORMATS))


def without(*families: str) -> bytes:
    return bzimage(formats=tuple(name for name in FORMATS if name.rpartition("-v")[0] not in families))


# -- The next kernel ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "names"),
    [
        (without("luo"), ["luo-missing"]),
        (without("kho"), ["kho-missing"]),
        (without("memfd"), ["handler-missing"]),
        (without("luo", "kho", "memfd"), ["luo-missing", "kho-missing", "handler-missing"]),
        (other("luo"), ["luo-format"]),
        (other("kho"), ["kho-format"]),
        (other("memfd"), ["handler-format"]),
    ],
    ids=["no LUO", "no KHO", "no memfd handler", "nothing", "another LUO", "another KHO", "another memfd handler"],
)
def test_h20_a_kernel_that_does_not_is(kernel: bytes, names: list[str]) -> None:
    found = look(kernel)
    assert refusals(found) == names
    assert all(each.what and each.why and each.remedy for each in found.findings)


@pytest.mark.parametrize("kernel", [b"#!/bin/sh\n", bzimage()[:3100], b"\x7fELF", bzimage()[:700]])
def test_what_is_no_kernel_is_refused(kernel: bytes) -> None:
    found = look(kernel)
    assert (refusals(found), found.release) == (["image-unreadable"], None)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("", ["liveupdate-off", "kho-off"]),
        ("kho=on panic=1", ["liveupdate-off"]),
        ("liveupdate=on", ["kho-off"]),
        ("liveupdate=on kho=on kho=off", ["kho-off"]),
        ("liveupdate=1 kho=y", []),
    ],
)
def test_the_command_line_must_switch_both_on(line: str, names: list[str]) -> None:
    assert refusals(look(bzimage(), line=line)) == names


def test_a_command_line_without_panic_is_warned_of() -> None:
    assert "no-panic" in warnings(look(bzimage(), line="liveupdate=on kho=on"))
    assert "no-panic" not in warnings(look(bzimage()))


# -- Its handlers ------------------------------------------------------------------------------------------------


def test_a_handler_may_be_in_a_module_that_the_initrd_loads() -> None:
    check = partial(look, kinds=("memfd", "vfio"))
    plain = bzimage(formats=(*FORMATS, "pci-v2"))
    module = {"init": b"#!/bin/sh\n", f"lib/modules/{RELEASE}/kernel/vfio-pci.ko": b"\x7fELF\0vfio-pci-v1\0"}
    listed = cpio({**module, "conf/modules": b"vfio-pci\n"})
    assert refusals(check(plain)) == ["handler-missing"]
    assert refusals(check(plain, initrd=cpio({"init": b""}))) == ["handler-missing"]
    assert refusals(check(plain, initrd=cpio(module))) == ["handler-not-loaded"]
    assert refusals(check(plain, initrd=cpio(module), line=GOOD + " modules_load=vfio-pci")) == []
    found = check(plain, initrd=listed)
    assert (refusals(found), "initrd-doubtful" in warnings(found)) == ([], False)
    found = check(plain, initrd=listed, line=GOOD + " module_blacklist=vfio_pci")
    assert refusals(found) == ["handler-not-loaded"]
    assert "module_blacklist=vfio_pci" in next(
        each.what for each in found.findings if each.name == "handler-not-loaded"
    )
    assert refusals(check(bzimage("6.1.0", (*FORMATS, "pci-v2")), initrd=listed)) == ["handler-missing"]


@pytest.mark.parametrize("formats", [(), ("pci-v3",), ("pci-v1", "pci-v10")])
def test_h26_a_kernel_that_does_not_read_what_the_pci_core_writes_is_refused(formats: tuple[str, ...]) -> None:
    handlers = (*FORMATS, "vfio-pci-v1")
    assert refusals(look(bzimage(formats=(*handlers, *formats)), kinds=("memfd",))) == []
    check = partial(look, kinds=("memfd", "vfio"))
    assert refusals(check(bzimage(formats=(*handlers, *formats)))) == ["flb-format"]
    assert refusals(check(bzimage(formats=(*handlers, *formats, "pci-v2")))) == []


# -- Its initial RAM disk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disk", "what"),
    [
        (b"", "empty"),
        (b"<html>404 Not Found</html>", "web page"),
        (cpio({"init": bytes(2000)})[:1500], "cut off"),
        (bzimage(), "Linux kernel"),
    ],
)
def test_an_initrd_that_no_kernel_can_use_is_refused_whatever_is_declared(disk: bytes, what: str) -> None:
    found = look(bzimage(), initrd=disk)
    assert refusals(found) == ["initrd-unusable"]
    assert what in next(each.what for each in found.findings if each.name == "initrd-unusable")


def test_an_initrd_that_luod_cannot_look_into_is_warned_of() -> None:
    found = look(bzimage(), initrd=b"\x89LZO\0\r\n\x1a\n" + bytes(100))
    assert (refusals(found), "initrd-unreadable" in warnings(found)) == ([], True)


def test_an_initrd_that_is_odd_is_warned_of() -> None:
    found = look(bzimage(), initrd=cpio({"init": b""}) + b"junk")
    assert (refusals(found), "initrd-doubtful" in warnings(found)) == ([], True)
