"""Devices over a kexec, in real machines: their state afterwards, refusals on the way, and many at once.

Each line of the rules' table is a test of the model. These tests show the same for processes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from tests.emulator.machine.conftest import RunDevices, steps

Run = Callable[..., "subprocess.CompletedProcess[str]"]

RULES = pytest.mark.parametrize("rules", ["v2", "v5"])


@RULES
def test_device_works_on_after_the_update(run_devices: RunDevices, rules: str) -> None:
    source = """
        take()
        fd = device()
        if BOOT == 1:
            file, memory = open_device(), os.memfd_create("guest")
            os.ftruncate(memory, MEMORY)
            context = set_up(file, memory)
            assert compute(file, memory, b"\\x01" * 40) == 40
            os.pwrite(file, b"scratchy", SCRATCH)
            session = create(fd, b"vm")
            preserve(session, memory, 1)
            preserve(session, file, 2)
            assert errno_of(preserve, session, file, 3) == errno.EBUSY
            assert compute(file, memory, b"\\x01" * 41, 8192) == 41, "it works while it is preserved"
            os.close(file)
            jump()
        assert errno_of(open_device) == errno.EBUSY
        session = retrieve_session(fd, b"vm")
        memory, file = retrieve(session, 1), retrieve(session, 2)
        assert os.readlink(f"/proc/self/fd/{file}") == "/anon_inode:[vfio-device-liveupdate]"
        assert errno_of(get_info, file) == errno.EINVAL
        assert errno_of(finish, session) == errno.EBUSY
        context = set_up(file, memory)
        assert os.pread(file, 8, SCRATCH) == bytes(8), "it was reset"
        assert int.from_bytes(os.pread(memory, 8, 4096), "little") == 40
        assert compute(file, memory, b"\\x01" * 42, 16384) == 42
        assert errno_of(open_device) == errno.EBUSY
        finish(session)
        os.close(session)
        second = open_device()
        assert errno_of(bind, second, context) == errno.EINVAL
        os.close(file)
        bind(second, context)
    """
    run_devices(source, "--vfio", "0000:01:00.0", "--vfio-rules", rules)


def test_retrieved_twice_is_one_open_file(run_devices: RunDevices) -> None:
    source = """
        take()
        fd = device()
        if BOOT == 1:
            file = open_device()
            bind(file, open_iommufd())
            preserve(create(fd, b"vm"), file, 1)
            jump()
        session = retrieve_session(fd, b"vm")
        first, second = retrieve(session, 1), retrieve(session, 1)
        assert os.fstat(first).st_ino == os.fstat(second).st_ino
        bind(first, open_iommufd())
        assert get_info(second)[2] == 9
        os.close(first); os.close(second)
        third = retrieve(session, 1)
        os.pwrite(third, b"scratchy", SCRATCH)
        os.close(third)
        fourth = retrieve(session, 1)
        assert os.pread(fourth, 8, SCRATCH) == b"scratchy", "live update holds it, bound as it is"
        assert errno_of(preserve, create(fd, b"next"), fourth, 1) == errno.EBUSY
        finish(session)
        assert errno_of(retrieve, session, 1) == errno.ENOENT
        assert get_info(fourth)[2] == 9
        os.close(fourth)
        bind(open_device(), open_iommufd())
    """
    run_devices(source)


def test_kept_files_end_with_the_session(run_devices: RunDevices) -> None:
    """Only live update has the device: FINISH closes it, and an unbind succeeds."""
    source = """
        take()
        fd = device()
        if BOOT == 1:
            file = open_device()
            bind(file, open_iommufd())
            preserve(create(fd, b"vm"), file, 1)
            jump()
        session = retrieve_session(fd, b"vm")
        file = retrieve(session, 1)
        bind(file, open_iommufd())
        os.close(file)
        unbind = threading.Thread(target=Path("/sys/bus/pci/drivers/vfio-pci/unbind").write_text, args=(DEVICE,))
        unbind.start()
        finish(session)
        unbind.join()
        assert os.listdir("/dev/vfio") == ["vfio"]
    """
    run_devices(source)


@RULES
def test_interrupts_must_be_off(run_devices: RunDevices, rules: str) -> None:
    source = """
        take()
        fd = device()
        if BOOT == 2:
            os._exit(0)
        file = open_device()
        bind(file, open_iommufd())
        preserve(create(fd, b"vm"), file, 1)
        heard = os.eventfd(0)
        listen(file, [heard])
        assert errno_of(jump) == errno.EINVAL
        assert get_info(file)[2] == 9, "nothing happened to it"
        listen(file, [])
        jump()
    """
    run_devices(source, "--vfio", "0000:01:00.0", "--vfio-rules", rules)


@pytest.mark.parametrize(("rules", "answer"), [("v2", 0), ("v5", 5)])
def test_device_that_was_frozen_before_the_update_failed(run_devices: RunDevices, rules: str, answer: int) -> None:
    """H22: of two devices the second has its interrupts on."""
    source = f"""
        other = "0000:02:00.0"
        take(); take(other)
        fd, context = device(), open_iommufd()
        files = [open_device(), open_device(other)]
        for name, file in zip((b"a", b"b"), files):
            bind(file, context)
            os.pwrite(file, b"scratchy", SCRATCH)
        sessions = [create(fd, b"a"), create(fd, b"b")]
        for session, file in zip(sessions, files):
            preserve(session, file, 1)
        listen(files[1], [os.eventfd(0)])
        assert errno_of(jump) == errno.EINVAL
        assert errno_of(get_info, files[0]) == {answer}
        assert os.pread(files[1], 8, SCRATCH) == b"scratchy"
        if {answer}:
            os.close(sessions[0]); os.close(files[0])
            driver = Path("/sys/bus/pci/drivers/vfio-pci")
            (driver / "unbind").write_text(DEVICE)
            (driver / "bind").write_text(DEVICE)
            files[0] = open_device()
            bind(files[0], context)
        assert os.pread(files[0], 8, SCRATCH) == bytes(8)
    """
    run_devices(source, "--vfio", "0000:01:00.0", "--vfio", "0000:02:00.0", "--vfio-rules", rules)


def test_retrieve_without_the_driver_is_final(run_devices: RunDevices) -> None:
    source = """
        fd = device()
        if BOOT == 1:
            take()
            file = open_device()
            bind(file, open_iommufd())
            preserve(create(fd, b"vm"), file, 1)
            jump()
        assert not os.path.exists("/dev/vfio/devices")
        session = retrieve_session(fd, b"vm")
        assert errno_of(retrieve, session, 1) == errno.ENODEV
        take()
        assert errno_of(retrieve, session, 1) == errno.ENODEV
        assert errno_of(finish, session) == errno.EBUSY
        assert errno_of(open_device) == errno.EBUSY
    """
    run_devices(source)


def test_kernel_without_a_handler(run_devices: RunDevices) -> None:
    """H20: what it cannot take over makes the device unusable for good."""
    source = """
        take()
        if BOOT == 1:
            file = open_device()
            bind(file, open_iommufd())
            session = create(device(), b"vm")
            preserve(session, file, 1)
            os.environ["LUOEMU_KERNEL"] += "-no-vfio"
            jump()
        for _ in range(3):
            assert errno_of(device) == errno.EIO
        bind(open_device(), open_iommufd())
        jump()
    """
    source = source.replace("take()\n", "if BOOT == 3: os._exit(errno_of(device))\n        take()\n", 1)
    run_devices(source)


def test_what_is_no_device_of_its_own(run_devices: RunDevices) -> None:
    source = """
        take()
        session = create(device(), b"vm")
        group, container = open_type1()
        of_group = device_of(group)
        for token, fd in enumerate((group, container, of_group, open_iommufd())):
            assert errno_of(preserve, session, fd, token) == errno.ENOENT, token
        assert errno_of(preserve, session, os.open("/dev/vfio/vfio", os.O_PATH), 9) == errno.EBADF
    """
    run_devices(source)


def test_unbind_waits_for_a_session(run_devices: RunDevices) -> None:
    source = """
        file = os.open(take(), os.O_RDWR)
        asked = os.eventfd(0)
        bind(file, open_iommufd())
        listen(file, [asked], vfio.VFIO_PCI_REQ_IRQ_INDEX)
        session = create(device(), b"vm")
        preserve(session, file, 1)
        os.close(file)
        unbind = threading.Thread(target=Path("/sys/bus/pci/drivers/vfio-pci/unbind").write_text, args=(DEVICE,))
        unbind.start()
        os.eventfd_read(asked)
        assert unbind.is_alive()
        os.close(session)
        unbind.join()
    """
    run_devices(source)


def test_thirty_two_devices_are_carried(run_devices: RunDevices) -> None:
    source = """
        names = [f"0000:{1 + n // 8:02x}:00.{n % 8}" for n in range(32)]
        paths = {name: take(name) for name in names}
        fd = device()
        if BOOT == 1:
            session, files, context = create(fd, b"vm"), [], open_iommufd()
            for token, name in enumerate(names):
                files.append(os.open(paths[name], os.O_RDWR))
                bind(files[-1], context)
                os.pwrite(files[-1], struct.pack("<Q", token + 1), SCRATCH)
                preserve(session, files[-1], token)
            jump()
        session, context = retrieve_session(fd, b"vm"), open_iommufd()
        files = [retrieve(session, token) for token in range(32)]
        for file in files:
            bind(file, context)
            assert os.pread(file, 8, SCRATCH) == bytes(8)
        for token, file in enumerate(files):
            os.pwrite(file, struct.pack("<Q", token + 1), SCRATCH)
        assert [int.from_bytes(os.pread(file, 8, SCRATCH), "little") for file in files] == list(range(1, 33))
        finish(session)
    """
    run_devices(source, *[word for n in range(32) for word in ("--vfio", f"0000:{1 + n // 8:02x}:00.{n % 8}")])


@pytest.mark.usefixtures("run_devices")
def test_boots_leave_nothing_in_the_supervisor() -> None:
    source = """
        from raw_vfio import *
        import ctypes
        take()
        fd = device()
        if BOOT > 1:
            session = retrieve_session(fd, b"vm")
            file, memory, context = retrieve(session, 1), retrieve(session, 2), open_iommufd()
            bind(file, context)
            finish(session)
        else:
            file, context, memory = open_device(), open_iommufd(), os.memfd_create("guest")
            os.ftruncate(memory, MEMORY)
            bind(file, context)
        space = ioas(context)
        attach(file, space)
        map_file(context, space, memory)
        private = mmap.mmap(-1, 4096)
        map_memory(context, space, ctypes.addressof(ctypes.c_char.from_buffer(private)), 4096, 1 << 30)
        listen(file, [os.eventfd(0)])
        listen(file, [])
        session = create(fd, b"vm")
        preserve(session, file, 1); preserve(session, memory, 2)
        os.write(1, b"%d\\n" % BOOT); sys.stdin.readline()
        if BOOT < 4: jump()
    """
    counts = [len(os.listdir(f"/proc/{pid}/fd")) for pid in steps(source, "--vfio", "0000:01:00.0", lines=range(1, 5))]
    assert len(set(counts[1:])) == 1, counts
