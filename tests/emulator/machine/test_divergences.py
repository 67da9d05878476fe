"""The differences from a real kernel: a test for each row of docs/divergences.md. A row ends when its test fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from luod.testing.tools import cannot_run, for_root
from luod.uapi.memfd import F_SEAL_SEAL
from tests.emulator.machine.conftest import PLAIN_USER, ROOT, steps

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run(run_machine: Run, source: str, *options: str, user: int | None = None) -> str:
    done = run_machine(source, *options, user=user)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_row_has_its_test() -> None:
    page = (ROOT / "docs" / "divergences.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    here = named_in(Path(__file__)) | named_in(Path(__file__).with_name("test_vfio_divergences.py"))
    elsewhere = named_in(ROOT / "tests/emulator/trap/seccomp/test_bpf.py")
    for name in ("test_cgroups.py", "test_capabilities.py"):
        elsewhere |= named_in(Path(__file__).with_name(name))
    assert named - elsewhere == here - {"test_every_row_has_its_test"}


def named_in(module: Path) -> set[str]:
    return set(re.findall(r"^def (test_\w+)", module.read_text(), re.MULTILINE))


@pytest.fixture
def node() -> None:
    """Skips tests of a device node where /dev/fuse cannot be used."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        cannot_run("no /dev/fuse that this uid may use: modprobe fuse, as root")


@pytest.mark.usefixtures("node")
def test_node_is_a_regular_file(run_machine: Run) -> None:
    source = """
        import stat
        status = os.stat("/dev/liveupdate")
        assert stat.S_ISREG(status.st_mode) and status.st_rdev == 0
        assert not os.path.exists("/sys/class/misc/liveupdate")
    """
    run(run_machine, source)


@pytest.mark.usefixtures("node")
def test_node_with_epoll_and_fionread(run_machine: Run) -> None:
    source = """
        import select, termios
        fd = device()
        with select.epoll() as epoll: epoll.register(fd)
        assert errno_of(fcntl.ioctl, fd, termios.FIONREAD, bytearray(4)) == 0
    """
    run(run_machine, source)


@pytest.mark.usefixtures("node")
def test_node_takes_a_private_mapping_and_flags(run_machine: Run) -> None:
    source = """
        import ctypes
        libc = mmap_library()
        fd = device()
        place = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
        assert place != ctypes.c_void_p(-1).value
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        assert libc.readahead(fd, ctypes.c_long(0), ctypes.c_size_t(10)) == 0
        os.close(fd)
        assert errno_of(device) == errno.EBUSY
        libc.munmap(ctypes.c_void_p(place), ctypes.c_size_t(4096))
        os.close(device())
    """
    run(run_machine, source)


@pytest.mark.usefixtures("node")
def test_node_with_calls_of_seekable_files(run_machine: Run) -> None:
    source = """
        import ctypes
        fd, memory = device(), os.memfd_create("m")
        inlet, outlet = os.pipe()
        assert (os.read(fd, 0), os.write(fd, b""), os.splice(fd, outlet, 10)) == (b"", 0, 0)
        assert errno_of(os.pread, fd, 1, 0) == errno.ESPIPE
        assert errno_of(os.pwrite, fd, b"x", 0) == errno.ESPIPE
        assert errno_of(os.sendfile, memory, fd, 0, 10) == errno.ESPIPE
        assert errno_of(os.copy_file_range, fd, memory, 10) == errno.EXDEV
        assert ctypes.CDLL(None).sync_file_range(fd, ctypes.c_long(0), ctypes.c_long(10), 2) == 0
    """
    run(run_machine, source)


@pytest.mark.usefixtures("node")
def test_node_with_ioctls_of_regular_files(run_machine: Run) -> None:
    source = """
        fd = device()
        for command in (0x80086601, 0x40086602, 0x801C581F, 0x401C5820):    # FS_IOC_*
            assert errno_of(fcntl.ioctl, fd, command, bytearray(64)) == errno.EBUSY, hex(command)
        FIBMAP, FIDEDUPERANGE, FIOQSIZE = 1, 0xC0189436, 0x5460
        assert errno_of(fcntl.ioctl, fd, FIBMAP, bytearray(64)) == errno.EPERM
        assert errno_of(fcntl.ioctl, fd, FIDEDUPERANGE, bytearray(64)) == errno.EOPNOTSUPP
        assert errno_of(fcntl.ioctl, fd, FIOQSIZE, bytearray(64)) == 0
    """
    run(run_machine, source)


@pytest.mark.usefixtures("node")
def test_node_with_foreign_ioctls(run_machine: Run) -> None:
    source = """
        fd, nowhere = device(), 8
        for command, refusal in ((0x4004BB50, errno.EFAULT), (0x8004BB50, errno.EINVAL), (0xBB50, errno.EINVAL)):
            assert errno_of(fcntl.ioctl, fd, command, bytearray(64)) == errno.EINVAL
            assert errno_of(fcntl.ioctl, fd, command, nowhere) == refusal, hex(command)
    """
    run(run_machine, source)


@pytest.mark.usefixtures("node")
def test_node_is_a_mount_point(run_machine: Run) -> None:
    source = """
        assert errno_of(os.link, raw.uapi.DEVICE, "/dev/other") == errno.EXDEV
        assert errno_of(os.rename, raw.uapi.DEVICE, "/dev/other") == errno.EBUSY
        assert errno_of(os.unlink, raw.uapi.DEVICE) == errno.EBUSY
        assert errno_of(os.listxattr, raw.uapi.DEVICE) == errno.EOPNOTSUPP
    """
    run(run_machine, source)


def test_session_reads_and_seeks(run_machine: Run) -> None:
    source = """
        session = create(device(), b"s")
        assert os.read(session, 10) == b""
        assert errno_of(os.write, session, b"x") == errno.EPERM
        assert os.lseek(session, 0, os.SEEK_CUR) == 0
        os.fsync(session)
        os.ftruncate(session, 0)
        assert errno_of(os.ftruncate, session, 1) == errno.EPERM
        import ctypes
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        assert libc.mmap(None, 4096, 1, 1, session, 0) != ctypes.c_void_p(-1).value
    """
    run(run_machine, source)


def test_session_is_shown_as_a_memfd(run_machine: Run) -> None:
    source = """
        import stat, subprocess
        session = create(device(), b"s")
        assert os.readlink(f"/proc/self/fd/{session}") == "/memfd:[luo_session] s (deleted)"
        assert stat.S_ISREG(os.fstat(session).st_mode)
        assert fcntl.fcntl(session, fcntl.F_GETFL) & 0o100000
        again = os.open(f"/proc/self/fd/{session}", os.O_RDWR)
        assert get_name(again) == b"s"
        file_system = subprocess.check_output(["stat", "-L", "-f", "-c", "%t", "/dev/fd/0"], stdin=session)
        assert file_system == b"1021994\\n"
    """
    run(run_machine, source)


def test_session_with_foreign_ioctls(run_machine: Run) -> None:
    source = """
        import termios
        session = create(device(), b"s")
        assert errno_of(fcntl.ioctl, session, termios.TCGETS, bytearray(64)) == errno.ENOTTY
        assert errno_of(fcntl.ioctl, session, 0xBB43, bytearray(72)) == errno.ENOTTY
        assert errno_of(fcntl.ioctl, session, termios.FIONREAD, bytearray(4)) == 0
    """
    run(run_machine, source)


def test_preserved_memfd_grows_by_a_write(run_machine: Run) -> None:
    source = """
        fd = device()
        if BOOT == 1:
            session, memory = create(fd, b"s"), os.memfd_create("m")
            os.write(memory, b"x" * 8192)
            preserve(session, memory, 1)
            os.pwrite(memory, b"y", 16000)
            os.close(os.open(f"/proc/self/fd/{memory}", os.O_RDWR | os.O_TRUNC))
            os.pwrite(memory, b"z" * 4096, 0)
            jump()
        memory = retrieve(retrieve_session(fd, b"s"), 1)
        assert os.pread(memory, 20000, 0) == b"z" * 4096 + bytes(4096)
    """
    run(run_machine, source)


def test_preserved_memfd_grows_by_calls_that_copy(run_machine: Run) -> None:
    source = """
        session, source = create(device(), b"s"), os.memfd_create("source")
        os.write(source, b"y" * 100)
        inlet, outlet = os.pipe()
        os.write(outlet, b"z" * 100)
        for token, copy in enumerate(
            (
                lambda memory: os.sendfile(memory, source, 0, 100),
                lambda memory: os.splice(inlet, memory, 100, offset_dst=8192),
                lambda memory: os.copy_file_range(source, memory, 100, offset_src=0, offset_dst=8192),
            )
        ):
            memory = os.memfd_create("m")
            os.write(memory, b"x" * 8192)
            preserve(session, memory, token)
            assert copy(memory) == 100
            assert os.fstat(memory).st_size == 8292
    """
    run(run_machine, source)


def test_preserved_memfd_is_punched_by_io_uring(run_machine: Run) -> None:
    """With an empty ring set up by hand: Python has no io_uring."""
    source = """
        import ctypes, mmap, struct
        libc = ctypes.CDLL(None, use_errno=True)
        session, memory = create(device(), b"s"), os.memfd_create("m")
        os.write(memory, b"x" * 8192)
        preserve(session, memory, 1)
        pages = mmap.mmap(memory, 8192)
        parameters = ctypes.create_string_buffer(120)
        ring = libc.syscall(425, 1, parameters)
        assert ring >= 0, errno.errorcode[ctypes.get_errno()]
        tail = struct.unpack_from("=I", parameters, 40 + 4)[0]
        array = struct.unpack_from("=I", parameters, 40 + 24)[0]
        entries = mmap.mmap(ring, 4096, offset=0x10000000)
        queue = mmap.mmap(ring, 4096)
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        IORING_OP_MADVISE, MADV_REMOVE = 25, 9
        struct.pack_into("=BBHiQQII", entries, 0, IORING_OP_MADVISE, 0, 0, -1, 0, address, 4096, MADV_REMOVE)
        struct.pack_into("=I", queue, array, 0)
        struct.pack_into("=I", queue, tail, 1)
        assert libc.syscall(426, ring, 1, 1, 1, None, ctypes.c_long(0)) == 1
        assert pages[:] == bytes(4096) + b"x" * 4096
    """
    run(run_machine, source)


def test_madv_remove_of_a_range_with_a_preserved_memfd_changes_nothing(run_machine: Run) -> None:
    source = """
        import ctypes
        libc = mmap_library()
        session, memory, other = create(device(), b"s"), os.memfd_create("m"), os.memfd_create("other")
        for file in (memory, other):
            os.write(file, b"x" * 4096)
        preserve(session, memory, 1)
        place = libc.mmap(None, 8192, 0, 0x22, -1, 0)
        for at, file in ((place, other), (place + 4096, memory)):
            libc.mmap(at, 4096, 3, 0x11, file, 0)
        assert libc.madvise(ctypes.c_void_p(place), ctypes.c_size_t(8192), 9) == -1
        assert ctypes.get_errno() == errno.EPERM
        assert os.pread(other, 4096, 0) == b"x" * 4096
    """
    run(run_machine, source)


def test_sparse_memfd_larger_than_memory(run_machine: Run) -> None:
    source = """
        session, memory = create(device(), b"s"), os.memfd_create("m")
        os.ftruncate(memory, 1 << 42)
        assert errno_of(preserve, session, memory, 1) == errno.ENOMEM
    """
    run(run_machine, source)


def test_name_of_a_retrieved_file(run_machine: Run) -> None:
    source = """
        fd = device()
        if BOOT == 1:
            session = create(fd, b"s")
            preserve(session, os.memfd_create("m"), 1)
            jump()
        memory = retrieve(retrieve_session(fd, b"s"), 1)
        assert os.readlink(f"/proc/self/fd/{memory}") == "/memfd: (deleted)"
    """
    run(run_machine, source)


def test_kernel_is_the_hosts(run_machine: Run) -> None:
    source = """
        print(os.uname().release, time.monotonic_ns(), flush=True)
        if BOOT == 1: jump()
    """
    first, second = (line.split() for line in run(run_machine, source).splitlines())
    assert first[0] == second[0] == os.uname().release
    assert int(first[1]) < int(second[1])


def test_settings_are_read_only(run_machine: Run) -> None:
    for_root("since a plain user may not write them either way")
    run(run_machine, 'assert errno_of(open, "/proc/sys/kernel/printk", "r+") == errno.EROFS')


def test_no_proc_of_its_own_in_a_user_namespace(run_machine: Run) -> None:
    source = """
        CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, PASSED = 0x20000, 0x10000000, 0x20000000, 100

        def answer(namespaces):
            if os.fork() == 0:
                raw.syscall("unshare", namespaces)
                if os.fork() == 0:
                    os._exit(PASSED + errno_of(raw.syscall, "mount", b"proc", b"/proc", b"proc", 0, b""))
                os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
            return os.waitstatus_to_exitcode(os.wait()[1])

        assert answer(CLONE_NEWNS | CLONE_NEWPID) == PASSED
        assert answer(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUSER) == PASSED + errno.EPERM
    """
    run(run_machine, source)


def test_settings_of_kexec_take_any_value_until_the_next_load(run_machine: Run) -> None:
    source = """
        path = "/proc/sys/kernel/kexec_load_limit_reboot"
        for value in ("5", "6"):
            with open(path, "w") as file: file.write(value)
            assert open(path).read() == value
            load()
            assert open(path).read() == "4\\n" if value == "5" else "3\\n"
    """
    run(run_machine, source)


def test_settings_are_links_on_a_host_without_kexec(run_machine: Run) -> None:
    if Path("/proc/sys/kernel/kexec_load_disabled").exists():
        pytest.skip("this host has kexec")
    run(run_machine, 'assert os.path.islink("/proc/sys/kernel/pid_max")')


def test_machine_without_fuse_has_a_socket(run_machine: Run) -> None:
    source = """
        import stat
        assert stat.S_ISSOCK(os.stat("/dev/liveupdate").st_mode)
        os.symlink("/dev/liveupdate", "/run/link")
        for path in ("/run/link", "/proc/self/root/dev/liveupdate"):
            assert errno_of(os.open, path, os.O_RDWR) == errno.ENXIO
        fd = device()
        assert os.read(fd, 1) == b""
    """
    run(run_machine, source, "--trap-opens")


def test_plain_users_machine_has_one_uid(run_machine: Run) -> None:
    source = """
        assert os.getuid() == 0
        assert errno_of(os.setuid, 1) == errno.EINVAL
    """
    run(run_machine, source, user=PLAIN_USER)


def test_memory_retrieved_where_it_may_not_be_executable() -> None:
    """vm.memfd_noexec=2 holds for luoemu, which makes the file."""
    if os.geteuid() != 0 or not Path("/proc/sys/vm/memfd_noexec").exists():
        pytest.skip("the sysctl is not there, or not to be set by this user")
    luoemu = [sys.executable, "-m", "luod.emulator.machine", "run", "--"]
    program = [sys.executable, "-m", "tests.programs.carried_again"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    words = [sys.executable, "-m", "tests.programs.noexec", "2", *luoemu, *program]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    hint, *boots = done.stdout.splitlines()
    assert "vm.memfd_noexec" in hint
    # F_SEAL_SEAL is the divergence. It can be written to, in each boot, as on a real kernel.
    assert boots == [f"{F_SEAL_SEAL} whole"] * 3, done.stderr


def test_kexec_load_reads_no_more_than_512_mib(run_machine: Run) -> None:
    source = """
        def refusal(size):
            segment = struct.pack("=4Q", 0, size, 0x2000000, size)
            return errno_of(raw.syscall, "kexec_load", 0, 1, segment, 0)

        assert refusal(512 << 20) == errno.EFAULT
        assert refusal((512 << 20) + 4096) == errno.ENOMEM
    """
    run(run_machine, source)


def test_a_huge_image_is_refused_unread(tmp_path: Path) -> None:
    """A sparse file costs its owner nothing. luoemu would need its size in memory, and answer nothing meanwhile."""
    source = f"""
        def refusal(size, content=b"", line=b"\\0"):
            with open("{tmp_path}/image", "wb") as file:
                file.write(content)
                file.truncate(size)
            with open("{tmp_path}/image", "rb") as file:
                words = (file.fileno(), -1, len(line), line, raw.kexec_uapi.KEXEC_FILE_NO_INITRAMFS)
                return errno_of(raw.syscall, "kexec_file_load", *words)

        kernel = open(os.environ["LUOEMU_KERNEL"], "rb").read()
        assert refusal(len(kernel), kernel) == 0
        assert refusal(0) == errno.EINVAL
        assert refusal(3 << 30) == errno.ENOEXEC
        assert refusal(3 << 30, kernel) == errno.ENOMEM
        assert refusal((4 << 30) + 1, kernel) == errno.EFBIG
        assert refusal(len(kernel), kernel, bytes(5 << 20)) == errno.ENOMEM
        print("asked", flush=True)
        sys.stdin.readline()
    """
    for luoemu in steps(source, lines=["asked"]):
        status = Path(f"/proc/{luoemu}/status").read_text()
        (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
        assert peak < 512 << 10, "in KiB"


def test_program_that_its_user_may_only_execute(cycle: str, run_machine: Run) -> None:
    for_root("to own a program that a plain user may not read")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        program = Path(directory, "cycle")
        program.write_bytes(Path(cycle).read_bytes())
        program.chmod(0o711)
        done = run_machine([str(program)], user=PLAIN_USER)
        assert done.stderr.splitlines()[-1] == "cycle: step 10: CREATE_SESSION: Operation not permitted"
        program.chmod(0o755)
        assert run_machine([str(program)], user=PLAIN_USER).stdout == "carried\n"
