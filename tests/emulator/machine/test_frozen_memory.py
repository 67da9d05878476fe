"""Calls that would add or remove pages of a preserved memfd: refused, in the order of the kernel's checks.

The divergences of these calls are in test_divergences.py.
"""

from __future__ import annotations

import errno
import platform
import subprocess
from collections.abc import Callable

import pytest

from tests.emulator.machine.conftest import WAYS, CompileC, options_for

Run = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = pytest.mark.parametrize("way", WAYS)

FROZEN_32 = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
static long call(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    __asm__ volatile("push %%rbp; mov %7, %%rbp; int $0x80; pop %%rbp"
                     : "=a"(result)
                     : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), "r"(f)
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}
int main(void)
{
    struct { unsigned size, fd; char name[64]; } create = {72, 0, "frozen"};
    struct { unsigned size, fd; unsigned long long token; } preserve = {16, memfd_create("m", 0), 1};
    int memory = preserve.fd, device = open("/dev/liveupdate", O_RDWR);
    if (ftruncate(memory, 8192) || ioctl(device, 0xBA00, &create) || ioctl(create.fd, 0xBA40, &preserve))
        return 1;
    printf("%ld ", call(93, memory, 4096, 0, 0, 0, 0));
    printf("%ld ", call(93, memory, 8192, 0, 0, 0, 0));
    printf("%ld ", call(93, memory, -1, 0, 0, 0, 0));
    printf("%ld ", call(194, memory, 8192, 1, 0, 0, 0));
    printf("%ld ", call(194, memory, 8192, 0, 0, 0, 0));
    printf("%ld ", call(324, memory, 3, 0, 0, 4096, 0));
    printf("%ld ", call(324, memory, 3, 0, 0, 0, 0));
    void *pages = mmap((void *)0x10000000, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, 0);
    unsigned *vector = mmap((void *)0x20000000, 4096, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    vector[0] = (unsigned)(long)pages;
    vector[1] = 4096;
    char *path = (char *)vector + 64;
    sprintf(path, "/proc/self/fd/%d", memory);
    printf("%ld ", call(92, (long)path, 4096, 0, 0, 0, 0));
    printf("%ld ", call(193, (long)path, 8192, 1, 0, 0, 0));
    printf("%ld ", call(193, (long)path, 8192, 0, 0, 0, 0));
    printf("%ld ", call(219, (long)pages, 4096, 9, 0, 0, 0));
    printf("%ld\n", call(440, call(434, getpid(), 0, 0, 0, 0, 0), (long)vector, 1, 9, 0, 0));
    return 0;
}
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is x86's")
def test_32_bit_calls_on_preserved_memory(run_machine: Run, way: str, compile_c: CompileC) -> None:
    done = run_machine([compile_c(FROZEN_32)], *options_for(way))
    expected = [
        -errno.EPERM,
        0,
        -errno.EINVAL,
        -errno.EPERM,
        0,
        -errno.EPERM,
        -errno.EINVAL,
        *[-errno.EPERM] * 2,
        0,
        *[-errno.EPERM] * 2,
    ]
    assert (done.returncode, done.stdout.split()) == (0, [str(code) for code in expected]), done.stderr


def test_another_file_beside_preserved_memory_can_change(run_machine: Run, way: str) -> None:
    source = """
        import ctypes, mmap
        session, memory, other = create(device(), b"s"), os.memfd_create("m"), os.memfd_create("other")
        for file in (memory, other):
            os.write(file, b"x" * 8192)
        preserve(session, memory, 1)
        os.ftruncate(other, 16384)
        os.posix_fallocate(other, 0, 32768)
        with mmap.mmap(other, 8192) as pages:
            pages.madvise(9)  # MADV_REMOVE
            assert pages[0] == 0
        with mmap.mmap(memory, 8192, mmap.MAP_PRIVATE) as private:
            assert errno_of(private.madvise, 9) == errno.EACCES
        with mmap.mmap(memory, 8192) as pages:
            assert errno_of(pages.madvise, 9) == errno.EPERM
            pages.madvise(mmap.MADV_DONTNEED)
            assert pages[0] == ord("x")
            address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(pages)))
            assert ctypes.CDLL(None).mlock(address, 8192) == 0
            assert errno_of(pages.madvise, 9) == errno.EINVAL
        os.close(session)
        os.ftruncate(memory, 0)
    """
    done = run_machine(source, *options_for(way))
    assert done.returncode == 0, done.stderr


def test_preserved_memory_keeps_its_pages_under_process_madvise(run_machine: Run, way: str) -> None:
    source = """
        import ctypes, mmap, signal, struct
        libc = ctypes.CDLL(None, use_errno=True)
        session, memory = create(device(), b"s"), os.memfd_create("m")
        os.write(memory, b"x" * 8192)
        preserve(session, memory, 1)
        pages = mmap.mmap(memory, 8192)
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))

        def remove(pidfd, *ranges, flags=0, vector=None):
            parts = b"".join(struct.pack("=2Q", start, length) for start, length in ranges)
            place = ctypes.c_char_p(parts) if vector is None else ctypes.c_void_p(vector)
            done = libc.syscall(440, pidfd, place, ctypes.c_long(len(ranges)), 9, flags)
            return done if done >= 0 else errno.errorcode[ctypes.get_errno()]

        child = os.fork()
        if child == 0:
            signal.pause()
        oneself, other = os.pidfd_open(os.getpid()), os.pidfd_open(child)
        private = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE)
        alone = ctypes.addressof(ctypes.c_char.from_buffer(private))
        for told, wanted in (
            (remove(oneself, (address, 4096)), "EPERM"),
            (remove(oneself, (address, 0), (address + 4096, 4096)), "EPERM"),
            (remove(oneself, (address + 1, 4096)), "EINVAL"),
            (remove(oneself, (alone, 4096), (address, 4096)), "EINVAL"),
            (remove(oneself, (address, 4096), flags=1), "EINVAL"),
            (remove(oneself, (address, 4096), vector=1), "EFAULT"),
            (remove(oneself, (address, 1 << 63)), "EINVAL"),
            (remove(memory, (address, 4096)), "EBADF"),
            (remove(other, (address, 4096)), "EINVAL"),
        ):
            assert told == wanted, (told, wanted)
        assert pages[:] == b"x" * 8192
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(session)
        # The host answers again. Before Linux 6.13 it takes MADV_REMOVE from nobody.
        done = remove(oneself, (address, 4096))
        assert (done, pages[:4096]) in ((4096, bytes(4096)), ("EINVAL", b"x" * 4096)), done
    """
    done = run_machine(source, *options_for(way))
    assert done.returncode == 0, done.stderr


def test_what_comes_first_decides_about_a_range_with_preserved_memory(run_machine: Run, way: str) -> None:
    source = """
        import ctypes, mmap
        libc = mmap_library()
        session, memory, other = create(device(), b"s"), os.memfd_create("m"), os.memfd_create("other")
        for file in (memory, other):
            os.write(file, b"x" * 8192)
        preserve(session, memory, 1)
        FIXED, ANONYMOUS, SHARED, PRIVATE = 0x10, 0x20, 1, 2
        place = libc.mmap(None, 65536, 0, PRIVATE | ANONYMOUS, -1, 0)
        libc.mmap(place + 4096, 8192, 3, SHARED | FIXED, memory, 0)

        def remove(start, length):
            done = libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), 9)
            return done if done >= 0 else errno.errorcode[ctypes.get_errno()]

        def first(flags, fd, protection=3):
            libc.mmap(place, 4096, protection, flags | FIXED, fd, 0)
            return remove(place, 8192)

        assert remove(place + 4096, 0) == 0
        assert remove(place + 4096, 1) == "EPERM"
        assert remove(place + 4096, -1) == "EINVAL"
        assert remove(place + 4096, -4096) == "EINVAL"
        assert remove(place + 4097, 4096) == "EINVAL"
        assert first(PRIVATE | ANONYMOUS, -1) == "EINVAL"
        assert first(PRIVATE, other) == "EACCES"
        assert first(SHARED, os.open(f"/proc/self/fd/{other}", os.O_RDONLY), protection=1) == "EACCES"
        assert first(SHARED, other) == "EPERM"
        libc.munmap(ctypes.c_void_p(place), 4096)
        assert remove(place, 8192) == "EPERM"
        assert os.pread(memory, 8192, 0) == b"x" * 8192
    """
    done = run_machine(source, *options_for(way))
    assert done.returncode == 0, done.stderr


def test_preserved_memory_keeps_its_size_under_truncate_by_the_path_of_an_fd(run_machine: Run, way: str) -> None:
    source = """
        session, memory, other = create(device(), b"s"), os.memfd_create("m"), os.memfd_create("other")
        for file in (memory, other):
            os.write(file, b"x" * 8192)
        preserve(session, memory, 1)
        readable = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY)
        for process in ("/proc/self", "/proc/thread-self", f"/proc/{os.getpid()}", "//proc/./self", "/dev"):
            for size in (0, 4096, 16384):
                for fd in (memory, readable):
                    assert errno_of(os.truncate, f"{process}/fd/{fd}", size) == errno.EPERM, process
            os.truncate(f"{process}/fd/{memory}", 8192)
            assert errno_of(os.truncate, f"{process}/fd/{memory}", -1) == errno.EINVAL
            os.truncate(f"{process}/fd/{other}", 4096)
            assert errno_of(os.truncate, f"{process}/fd/999", 0) == errno.ENOENT
        if os.fork() == 0:
            os._exit(errno_of(os.truncate, f"/proc/{os.getppid()}/fd/{memory}", 0))
        assert os.waitstatus_to_exitcode(os.wait()[1]) == errno.EPERM
        assert os.pread(memory, 9000, 0) == b"x" * 8192
        os.close(session)
        os.truncate(f"/proc/self/fd/{memory}", 0)
    """
    done = run_machine(source, *options_for(way))
    assert done.returncode == 0, done.stderr
