"""The kernel image of a machine, read by all that read kernel images, and what comes of images that differ."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from luod import image
from luod.emulator.machine import stub
from luod.emulator.model import image as model_image

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_model_accepts_it() -> None:
    data = stub.bzimage()
    assert model_image.check(data, len(data)) == 2047
    assert model_image.read_formats(data) == set(stub.FORMATS)


def test_formats_are_as_asked() -> None:
    assert model_image.read_formats(stub.bzimage(formats=("kho-v4",))) == {"kho-v4"}
    assert model_image.read_formats(stub.bzimage(formats=())) == set()


def test_library_reads_it() -> None:
    data = stub.bzimage(release="7.3.9-test")
    header = image.describe(data)
    assert header.relocatable
    assert header.version.startswith("7.3.9-test ")
    found = image.contents(image.unpack(data, header))
    assert found.release == "7.3.9-test"
    assert set(found.formats) == set(stub.FORMATS)


LOAD = """
    from luod.emulator.machine import stub
    import ctypes
    def load_image(formats):
        fd = os.memfd_create("kernel")
        os.write(fd, stub.bzimage(formats=formats))
        line = ctypes.create_string_buffer(b"liveupdate=on kho=on")
        raw.syscall("kexec_file_load", fd, -1, len(line), line, 4)
        os.close(fd)
    jump = lambda: raw.reboot(raw.kexec_uapi.LINUX_REBOOT_CMD_KEXEC)
"""


def test_kernel_of_another_format_panics(run_machine: Run) -> None:
    source = (
        LOAD
        + """
    session = create(device(), b"s")
    load_image(("luo-v6", "kho-v4", "memfd-v2"))
    jump()
    """
    )
    done = run_machine(source)
    assert done.returncode == 125
    assert "panics" in done.stderr


@pytest.mark.parametrize(
    ("formats", "answer"), [((), "ENOENT"), (("luo-v5", "kho-v4"), "EIO")], ids=["no live update", "no memfd handler"]
)
def test_kernel_that_lacks_something(run_machine: Run, formats: tuple[str, ...], answer: str) -> None:
    source = (
        LOAD
        + f"""
    if BOOT == 1:
        session = create(device(), b"s")
        preserve(session, os.memfd_create("m"), 1)
        load_image({formats!r})
        jump()
    print(errno.errorcode[errno_of(device)])
    """
    )
    done = run_machine(source)
    assert (done.returncode, done.stdout) == (0, f"{answer}\n"), done.stderr
