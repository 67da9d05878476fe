"""Files that programs name in calls: the supervisor waits for no other file system than those of the host's kernel."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from luod.testing.tools import cannot_run, for_root

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SERVED = """
    import select
    from luod.emulator.trap.fuse.server import FuseNode
    from luod.linux import Fd, syscall

    class Device:
        def open(self): return 1
        def release(self, handle): pass

    def serve(node, until):
        poll = select.poll()
        poll.register(node, select.POLLIN)
        poll.register(until, select.POLLIN)
        while until not in dict(poll.poll()):
            node.serve()

    def served(path):
        "Returns a file of FUSE. It was served by a thread of this program, which has ended, and its node."
        fuse = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={{fuse}},rootmode=100600,user_id=0,group_id=0".encode()
        syscall("mount", b"served", os.fsencode(path), b"fuse", 0, options)
        node, until = FuseNode(Fd(fuse), Device()), os.eventfd(0)
        thread = threading.Thread(target=serve, args=(node, until))
        thread.start()
        file = os.open(path, os.O_RDWR)
        os.eventfd_write(until, 1)
        thread.join()
        return file, node

    file, node = served("{path}")
    session = create(device(), b"s")
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Returns the beginning of a program whose `file` is on a FUSE file system that the program itself serves."""
    if os.geteuid() != 0:
        for_root("to mount FUSE")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        cannot_run("no /dev/fuse that this uid may use: modprobe fuse, as root")
    (tmp_path / "served").touch()
    return SERVED.format(path=tmp_path / "served")


def test_a_program_may_name_a_file_that_it_serves_itself(run_machine: Run, source: str) -> None:
    """It cannot answer a request of the supervisor: it waits for the answer to its call."""
    source += """
    assert errno_of(preserve, session, file, 1) == errno.ENOENT
    """
    done = run_machine(source)
    assert done.returncode == 0, done.stderr


def test_a_file_whose_server_has_ended(run_machine: Run, source: str) -> None:
    source += """
    node.close()
    assert errno_of(preserve, session, file, 1) == errno.ENOENT
    line = b"x" + bytes(1)
    assert errno_of(raw.syscall, "kexec_file_load", file, -1, 2, line, 4) == errno.ENOTCONN
    print(get_name(session))
    """
    done = run_machine(source)
    assert (done.returncode, done.stdout) == (0, "b's'\n"), done.stderr


MORTAL = """
    import contextlib, select, stat
    from luod.emulator.trap.fuse.server import FuseNode
    from luod.linux import Fd, syscall
    from luod.uapi import fuse as uapi

    kernel = os.open(os.environ["LUOEMU_KERNEL"], os.O_RDONLY)

    class Node(FuseNode):
        "A kernel's image. Its server is asked for the attributes each time, and ends at its last request."
        left = 0

        def _attributes(self):
            size, mode = os.fstat(kernel).st_size, stat.S_IFREG | 0o600
            return uapi.ATTR_OUT.pack(0, 0, 0) + uapi.ATTR.pack(1, size, 0, *[0] * 6, mode, 1, 0, 0, 0, 4096, 0)

        def _handle(self, request):
            self.left -= 1
            if not self.left:
                os._exit(0)
            if request.opcode == uapi.FUSE_OPEN:
                return uapi.OPEN_OUT.pack(1, 0, 0)
            if request.opcode == uapi.FUSE_READ:
                _, offset, length, *_ = uapi.READ_IN.unpack_from(request.body)
                return os.pread(kernel, length, offset)
            return b"" if request.opcode == uapi.FUSE_RELEASE else super()._handle(request)

    def serve(requests):
        "Mounts the file. Returns the pid of its server."
        fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={fuse},rootmode=100600,user_id=0,group_id=0".encode()
        syscall("mount", b"served", b"PATH", b"fuse", 0, options)
        if (server := os.fork()) == 0:
            node = Node(Fd(fuse), None)
            node.left = requests
            poll = select.poll()
            poll.register(node, select.POLLIN)
            while True:
                poll.poll()
                node.serve()
        os.close(fuse)
        return server

    def load(position):
        "Loads the file as kernel or initrd. Returns the errno, or None where the file could not be opened."
        try:
            file = os.open("PATH", os.O_RDONLY)
        except OSError:
            return None
        files = [kernel, kernel]
        files[position] = file
        found = errno_of(syscall, "kexec_file_load", *files, 1, bytes(1), 0)
        with contextlib.suppress(OSError):
            os.close(file)
        return found

    for position in (0, 1):
        found = []
        for requests in range(1, 30):
            server = serve(requests)
            found.append(load(position))
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
            syscall("umount2", b"PATH", 2)
        assert found[0] is None and found[-1] == 0 and set(found) > {0, None}, found
"""


@pytest.mark.usefixtures("source")
def test_a_file_whose_server_ends_while_it_is_loaded(run_machine: Run, tmp_path: Path) -> None:
    """The server is a program of the machine. It may end at any request."""
    done = run_machine(MORTAL.replace("PATH", str(tmp_path / "served")))
    assert done.returncode == 0, done.stderr
