"""The references that keep a session alive in a real machine, those that a kexec carries, and their maximum number."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.emulator.machine.conftest import WAYS, options_for

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run(run_machine: Run, way: str, source: str) -> str:
    done = run_machine(source, *options_for(way))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("way", WAYS)
def test_a_name_is_free_when_the_last_reference_is_gone(run_machine: Run, way: str) -> None:
    source = """
        fd = device()
        taken = lambda: errno_of(lambda: os.close(create(fd, b"s"))) == errno.EEXIST
        for _ in range(150):
            os.close(create(fd, b"s"))          # free as soon as close() returns

        session = create(fd, b"s")
        other = os.dup(session); os.close(session)
        assert taken(); os.close(other); assert not taken()

        session = create(fd, b"s")
        ours, theirs = socket.socketpair()
        socket.send_fds(ours, [b"x"], [session]); os.close(session)
        assert taken(); theirs.close(); ours.close(); assert not taken()

        session = create(fd, b"s")
        assert fcntl.fcntl(session, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        go, tell = os.pipe()
        os.set_inheritable(go, True)        # before the fork: else sh cannot read it, and ends before it is killed
        child = os.fork()
        if child == 0:
            os.close(tell)
            os.set_inheritable(session, True); os.set_inheritable(go, True)
            os.execvp("sh", ["sh", "-c", "read line <&%d" % go])
        os.close(session)
        assert taken(); os.kill(child, signal.SIGKILL); os.waitpid(child, 0); assert not taken()

        session = create(fd, b"s")
        child = os.fork()
        if child == 0:
            os.close(fd)                        # close-on-exec closes the session in the program
            os.execvp("sh", ["sh", "-c", "kill -STOP $$"])
        os.close(session)
        os.waitpid(child, os.WUNTRACED)
        assert not taken(); os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
    """
    run(run_machine, way, source)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_open_somewhere_is_carried(run_machine: Run, way: str) -> None:
    """Held by init, by a child, in flight: carried, with the last write; closed, or its holder killed: gone."""
    source = """
        fd = device()
        if BOOT == 1:
            def filled(name):
                session, memory = create(fd, name), os.memfd_create("m")
                os.write(memory, name)
                preserve(session, memory, 7)
                return session, memory
            mine, memory = filled(b"mine")
            for name in (b"child", b"killed"):
                session, _ = filled(name)
                child = os.fork()
                if child == 0:
                    while True: signal.pause()
                os.close(session)
            os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
            flying, _ = filled(b"flying")
            ours, theirs = socket.socketpair()
            socket.send_fds(ours, [b"x"], [flying]); os.close(flying)
            os.close(filled(b"closed")[0])
            os.close(fd)
            os.lseek(memory, 2, os.SEEK_SET)
            shared = mmap.mmap(memory, 4)
            shared[0:1] = b"M"
            jump()
        for name, content in ((b"mine", b"Mine"), (b"child", b"child"), (b"flying", b"flying")):
            session = retrieve_session(fd, name)
            memory = retrieve(session, 7)
            assert os.pread(memory, 100, 0) == content, (name, os.pread(memory, 100, 0))
            again = retrieve(session, 7)
            assert os.lseek(memory, 1, os.SEEK_SET) == os.lseek(again, 0, os.SEEK_CUR)
            finish(session)
            os.close(session)
            assert os.pread(memory, 100, 0) == content
        for name in (b"killed", b"closed", b"mine"):
            assert errno_of(retrieve_session, fd, name) == errno.ENOENT
    """
    run(run_machine, way, source)


def test_processes_that_write_until_the_end(run_machine: Run) -> None:
    """A process that never stops writing: what it wrote last, at any moment of the jump, is whole."""
    source = """
        fd = device()
        if BOOT == 1:
            session, memory = create(fd, b"s"), os.memfd_create("m")
            os.ftruncate(memory, 8)
            preserve(session, memory, 1)
            begun, tell = os.pipe()
            if os.fork() == 0:
                count = 0
                while True:
                    count += 1
                    os.pwrite(memory, struct.pack("=Q", count), 0)
                    if count == 1000: os.write(tell, b"x")
            os.read(begun, 1)
            jump()
        session = retrieve_session(fd, b"s")
        (count,) = struct.unpack("=Q", os.pread(retrieve(session, 1), 8, 0))
        assert count >= 1000
        os.close(session)
    """
    run(run_machine, "fuse", source)


def test_many_sessions_and_files(run_machine: Run) -> None:
    """1100 sessions, more than the fds that a process may have by default, and 200 files in one, through a jump."""
    source = """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        fd = device()
        if BOOT == 1:
            sessions = [create(fd, b"session %d" % n) for n in range(1100)]
            files = [os.memfd_create("m") for n in range(200)]
            for number, file in enumerate(files):
                os.write(file, b"content %d" % number)
                preserve(sessions[0], file, number)
                os.close(file)
            jump()
        for number in range(1100):
            session = retrieve_session(fd, b"session %d" % number)
            if number == 0:
                for token in range(200):
                    file = retrieve(session, token)
                    assert os.pread(file, 100, 0) == b"content %d" % token
                    os.close(file)
                finish(session)
            os.close(session)
        print("all")
    """
    done = run_machine(source)
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr
