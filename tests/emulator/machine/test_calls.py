"""Calls that reach the model, and their answers: threads, other ABIs, signals, bad memory."""

from __future__ import annotations

import errno
import platform
import subprocess
from collections.abc import Callable

import pytest

from luod.testing.tools import for_root
from tests.emulator.machine.conftest import PLAIN_USER, WAYS, CompileC, options_for

Run = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = pytest.mark.parametrize("way", WAYS)


def run(run_machine: Run, way: str, source: str, **settings: object) -> str:
    done = run_machine(source, *options_for(way), **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_open_at_a_time(run_machine: Run, way: str) -> None:
    source = """
        first = device()
        assert errno_of(device) == errno.EBUSY
        second = os.dup(first)
        os.close(first)
        assert errno_of(device) == errno.EBUSY
        os.close(second)
        for _ in range(200):
            os.close(device())
    """
    run(run_machine, way, source)


def test_threads_create_and_close_at_the_same_time(run_machine: Run, way: str) -> None:
    source = """
        fd = device()
        def work(number):
            for turn in range(50):
                name = b"thread %d" % number
                session = create(fd, name)
                assert get_name(session) == name
                os.close(session)
            done.append(number)
        done = []
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert sorted(done) == list(range(8))
        assert os.listdir("/proc/self/fd")[-1] and len(os.listdir("/proc/self/fd")) < 10
    """
    run(run_machine, way, source)


def test_a_thread_that_is_not_the_leader_preserves(run_machine: Run, way: str) -> None:
    source = """
        fd = device()
        session = create(fd, b"s")
        file = os.memfd_create("m")
        os.write(file, b"data")
        result = []
        def work():
            result.append(errno_of(preserve, session, file, 1))
            result.append(errno_of(preserve, session, file, 2))
        thread = threading.Thread(target=work)
        thread.start(); thread.join()
        assert result == [0, errno.EBUSY], result
    """
    run(run_machine, way, source)


def test_other_descriptors_answer_for_themselves(run_machine: Run, way: str) -> None:
    source = """
        pipe, _ = os.pipe()
        assert errno_of(fcntl.ioctl, pipe, 0xBA40, 0) == errno.ENOTTY
        assert errno_of(fcntl.ioctl, os.memfd_create("m"), 0xBA43, 0) == errno.ENOTTY
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        for number in (999, -1):
            assert libc.ioctl(number, 0xBA43, 0) == -1 and ctypes.get_errno() == errno.EBADF
        fd = device()
        session = create(fd, b"s")
        only_path = os.open(f"/proc/self/fd/{session}", os.O_PATH)
        assert errno_of(get_name, only_path) == errno.EBADF
        file = os.memfd_create("m")
        file_path = os.open(f"/proc/self/fd/{file}", os.O_PATH)
        assert errno_of(preserve, session, file_path, 1) == errno.EBADF
        assert errno_of(preserve, session, file, 1) == 0
    """
    run(run_machine, way, source)


def test_kexec_load_refuses_any_count_of_segments_that_is_too_large(run_machine: Run, way: str) -> None:
    source = """
        import ctypes
        from luod.linux import syscall
        for count in (17, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
            assert errno_of(syscall, "kexec_load", 0, ctypes.c_ulong(count), 0, 0) == errno.EINVAL, count
    """
    run(run_machine, way, source)


def test_memory_that_cannot_be_written_leaks_nothing(run_machine: Run, way: str) -> None:
    source = """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
        page = libc.mmap(None, 4096, 3, 0x22, -1, 0)
        fd = device()
        request = struct.pack("=Ii64s", 72, -1, b"s")
        ctypes.memmove(page, request, len(request))
        libc.mprotect(page, 4096, 1)
        before = sorted(os.listdir("/proc/self/fd"))
        assert libc.ioctl(fd, 0xBA00, page) == -1 and ctypes.get_errno() == errno.EFAULT
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert ctypes.string_at(page, len(request)) == request
        os.close(create(fd, b"s"))
        assert libc.ioctl(fd, 0xBA00, 8) == -1 and ctypes.get_errno() == errno.EFAULT
    """
    run(run_machine, way, source)


def test_no_free_descriptor(run_machine: Run, way: str) -> None:
    source = """
        import resource
        fd = device()
        file = os.memfd_create("m")
        keep = create(fd, b"keep")
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, highest + 3))
        fill = []
        try:
            while True: fill.append(os.dup(fd))
        except OSError as error:
            assert error.errno == errno.EMFILE
        assert errno_of(create, fd, b"s") == errno.EMFILE
        assert errno_of(create, fd, b"") == errno.EMFILE
        os.close(fill.pop())
        assert errno_of(create, fd, b"") == errno.EINVAL
        session = create(fd, b"s")
    """
    run(run_machine, way, source)


def test_what_an_open_checks_beside_the_device(run_machine: Run, way: str) -> None:
    source = """
        import resource
        fd = device()
        assert errno_of(device) == errno.EBUSY
        assert errno_of(os.open, "/dev/liveupdate", os.O_RDWR | os.O_CREAT | os.O_EXCL) == errno.EEXIST
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1, highest + 3))
        assert errno_of(device) == errno.EMFILE
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, highest + 3))
        os.close(fd)
        os.close(os.open("/dev/liveupdate", os.O_RDWR | os.O_CREAT))
        assert errno_of(os.open, "/dev/liveupdate", os.O_RDWR | os.O_DIRECT) == errno.EINVAL
        fd = device()
        assert errno_of(os.open, "/dev/liveupdate", os.O_RDWR | os.O_DIRECT) == errno.EBUSY
    """
    run(run_machine, way, source)


def test_a_path_that_ends_in_the_node_opens_it(run_machine: Run, way: str) -> None:
    """The whole of it: tests/kernel/test_node.py."""
    source = """
        def opened(path, flags=os.O_RDWR, **settings):
            try:
                os.close(os.open(path, flags, **settings))
            except OSError as error:
                return errno.errorcode[error.errno]
        NODE = "/dev/liveupdate"
        for wrong in (NODE + "/", NODE + "/.", NODE + "/../liveupdate", "/dev/null/../liveupdate"):
            assert opened(wrong) == "ENOTDIR", wrong
        assert opened("/dev/nothing/../liveupdate") == "ENOENT"
        assert opened(NODE + "/", os.O_RDWR | os.O_CREAT) == "EISDIR"
        assert opened(NODE, os.O_DIRECTORY) == "ENOTDIR"
        os.symlink(NODE, "/run/liveupdate")
        assert opened("/run/liveupdate", os.O_RDWR | os.O_NOFOLLOW) == "ELOOP"
        directory = os.open("/dev", os.O_RDONLY)
        assert opened("liveupdate", dir_fd=directory) is None
        os.chdir("/dev/shm")
        for path in (NODE, "//dev/./liveupdate", "/dev/shm/../liveupdate", "../liveupdate", "/run/liveupdate"):
            assert opened(path) is None, path
        for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND):
            fd = os.open(NODE, flags)
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND) == flags
            os.close(fd)
    """
    run(run_machine, way, source)


def test_a_huge_structure_keeps_only_its_caller_waiting(run_machine: Run, way: str) -> None:
    """The kernel reads it all, in the hope of a byte that is not zero. Other callers are answered meanwhile."""
    source = """
        from luod.uapi import liveupdate as uapi
        import ctypes
        SIZE = 1 << 28
        fd = device()
        other = create(fd, b"other")
        big = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # MAP_NORESERVE
        big[:uapi.CREATE_SESSION.size] = uapi.CREATE_SESSION.pack(SIZE, -1, b"big")
        argument = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(big)))
        # fcntl.ioctl would keep other threads waiting.
        ioctl, command = ctypes.CDLL(None).ioctl, ctypes.c_ulong(uapi.LIVEUPDATE_IOCTL_CREATE_SESSION)
        caller = threading.Thread(target=ioctl, args=(fd, command, argument))
        caller.start()
        answered = 0
        while caller.is_alive():
            assert get_name(other) == b"other"
            answered += 1
        assert answered > 20, answered
        assert errno_of(create, fd, b"big") == errno.EEXIST
    """
    run(run_machine, way, source)


def test_a_large_file_keeps_only_its_caller_waiting(run_machine: Run, way: str) -> None:
    """PRESERVE_FD allocates its holes, RETRIEVE_FD copies it: 16 turns each. Other callers are answered meanwhile."""
    source = """
        fd, memory = device(), os.memfd_create("m")
        other = create(fd, b"other")
        os.ftruncate(memory, 256 << 20)

        def answered_during(call):
            "Returns how often another caller was answered while that of `call` was waiting."
            begun, begin = os.pipe()
            # fcntl.ioctl would keep other threads waiting, so this is another process.
            if (child := os.fork()) == 0:
                os.write(begin, b"!")
                call()
                os._exit(0)
            os.read(begun, 1)
            answered = 0
            while not (ended := os.waitpid(child, os.WNOHANG))[0]:
                waits = open(f"/proc/{child}/stat").read().rpartition(")")[2].split()[0] in "SD"
                assert get_name(other) == b"other"
                answered += waits
            assert ended[1] == 0
            return answered

        if BOOT == 1:
            session = create(fd, b"s")
            os.pwrite(memory, b"end", (256 << 20) - 3)
            assert (answered := answered_during(lambda: preserve(session, memory, 1))) > 5, answered
            assert os.lseek(memory, 0, os.SEEK_HOLE) == 256 << 20
            jump()
        session = retrieve_session(fd, b"s")
        assert (answered := answered_during(lambda: retrieve(session, 1))) > 5, answered
        assert os.pread(retrieve(session, 1), 4, (256 << 20) - 3) == b"end"
    """
    run(run_machine, way, source)


def test_a_retrieve_whose_caller_is_killed_can_be_made_again(run_machine: Run, way: str) -> None:
    source = """
        if BOOT == 1:
            session, memory = create(device(), b"s"), os.memfd_create("m")
            os.ftruncate(memory, 256 << 20)
            os.pwrite(memory, b"end", (256 << 20) - 3)
            preserve(session, memory, 1)
            jump()
        fd = device()
        session, other = retrieve_session(fd, b"s"), create(fd, b"other")
        for _ in range(3):
            if (child := os.fork()) == 0:
                retrieve(session, 1)
                signal.pause()
            for _ in range(4):
                get_name(other)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert os.pread(retrieve(session, 1), 4, (256 << 20) - 3) == b"end"
        finish(session)
    """
    run(run_machine, way, source)


def test_limits_of_the_supervisor_are_not_the_programs(run_machine: Run, way: str) -> None:
    source = """
        import resource
        print(resource.getrlimit(resource.RLIMIT_NOFILE))
    """
    import resource

    assert run(run_machine, way, source) == f"{resource.getrlimit(resource.RLIMIT_NOFILE)}\n"


def test_a_signal_does_not_repeat_a_call(run_machine: Run, way: str) -> None:
    """A timer fires all the time; a call that was done and reported as interrupted would be EEXIST when repeated."""
    source = """
        fd = device()
        fired = []
        signal.signal(signal.SIGALRM, lambda *_: fired.append(1))
        signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        while len(fired) < 300:
            session = create(fd, b"s")
            assert get_name(session) == b"s"
            os.close(session)
        signal.setitimer(signal.ITIMER_REAL, 0)
    """
    run(run_machine, way, source)


def test_callers_killed_in_the_middle_leave_nothing_behind(run_machine: Run, way: str) -> None:
    source = """
        from luod.testing.waiting import eventually
        fd = device()
        for turn in range(30):
            child = os.fork()
            if child == 0:
                while True:
                    os.close(create(fd, b"child"))
            eventually(lambda: errno_of(lambda: os.close(create(fd, b"probe"))) == 0, describe="a probe is created")
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(create(fd, b"child"))
    """
    run(run_machine, way, source)


@pytest.mark.parametrize("user", [None, PLAIN_USER], ids=["own uid", "uid 1000"])
def test_a_program_that_hides_its_memory(run_machine: Run, way: str, user: int | None) -> None:
    """Undumpable, as programs with secrets make themselves: it may not be traced, and still gets its answers.

    By an exec in the machine, whose user namespace has rights over its memory then.
    """
    source = """
        import ctypes
        libc = ctypes.CDLL(None)
        fd = device()
        assert libc.prctl(4, 0, 0, 0, 0) == 0
        session, file = create(fd, b"s"), os.memfd_create("m")
        assert get_name(session) == b"s"
        preserve(session, file, 1)
        assert errno_of(preserve, session, file, 2) == errno.EBUSY
    """
    run(run_machine, way, source, user=user, forked=False)


def test_another_uid_in_the_machine(run_machine: Run, way: str) -> None:
    """No capability is asked for beyond what opening needs."""
    for_root("for several users in one machine")
    source = """
        fd = device()
        os.setgroups([]); os.setgid(12345); os.setuid(12345)
        session, file = create(fd, b"s"), os.memfd_create("m")
        preserve(session, file, 1)
        assert get_name(session) == b"s"
        os.close(fd)
        assert errno_of(device) == errno.EACCES
    """
    run(run_machine, way, source)


ABI_32 = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static int call(int number, long a, long b, long c)
{
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) :
                     "memory", "r8", "r9", "r10", "r11");
    return result;
}

int main(void)
{
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    struct { unsigned size; int fd; char name[64]; } *request = (void *)(page + 64);

    strcpy(page, "/dev/liveupdate");
    int device = call(5, (long)page, 2, 0);
    request->size = 72;
    strcpy(request->name, "abi");
    int created = call(54, device, 0xBA00, (long)request);
    int session = request->fd;
    memset(request->name, 0x55, 64);
    request->fd = 0;
    int named = call(54, session, 0xBA43, (long)request);
    int wrong = call(88, 1, 2, 0);
    printf("%d %d %d %s %d\n", device > 2, created, named, request->name, wrong);
    return 0;
}
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is x86's")
def test_32_bit_calls(run_machine: Run, way: str, compile_c: CompileC) -> None:
    done = run_machine([compile_c(ABI_32)], *options_for(way))
    assert (done.returncode, done.stdout) == (0, f"1 0 0 abi {-errno.EINVAL}\n"), done.stderr
