"""Each call that `luod` makes fails once, by strace(1), while it holds an fd: it lives, and holds the fd.

A serve of the test's own does all that serve does: it stores, asks, removes, says READY, and dies. What it is started
with next says what the supervisor still holds.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from luod.linux import Fd
from luod.testing import eventually
from luod.testing.tools import cannot_run, require_tool

CALLS = {
    "recvmsg": ("ENOMEM", "ECONNRESET"),
    "sendto": ("ENOBUFS", "EPIPE"),
    "poll": ("ENOMEM",),
    "recvfrom": ("ENOMEM",),
    "kill": ("EPERM",),
    "wait4": ("ECHILD",),
    "clone": ("EAGAIN",),
    "pidfd_open": ("EMFILE",),
    "socketpair": ("EMFILE",),
    "socket": ("EMFILE",),
    "connect": ("EACCES",),
    "close": ("EIO",),
    "openat": ("EMFILE", "ENOENT"),
    "ioctl": ("EIO",),
    "write": ("ENOSPC", "EPIPE"),
    "fcntl": ("EMFILE",),
    "fstat": ("EIO",),
    "newfstatat": ("EIO",),
    "mmap": ("ENOMEM",),
}
"""By name, and the errors that it is given."""

_SUPERVISOR = """
import os
import sys
from luod.daemon.log import Log
from luod.daemon.supervisor import protocol
from luod.daemon.supervisor.sockets import Listening
from luod.daemon.supervisor.supervisor import Supervisor
from luod.ipc import framing

def serve(given):
    def ask(fds=(), **request):
        framing.send(given.channel, protocol.encode(request), fds)
        return protocol.decode(framing.receive(given.channel)[0])[0]
    held = sorted(name for name in given.fds if name.startswith("held."))
    # An answer that the supervisor could not send does not come. The first serve is asked while nothing fails.
    given.channel.settimeout(1 if held else 60)
    # For reading, too: the open of a serve that is forked while the test ends would wait for a reader without end.
    with open(os.open(sys.argv[4], os.O_RDWR | os.O_CLOEXEC), "w") as report:
        print("started", *held, file=report, flush=True)
        try:
            if not held:
                file = os.memfd_create("held")
                for name in ("held.1", "held.2"):
                    assert ask((file,), FDSTORE=1, FDNAME=name)["ERRNO"] == "0"
            else:
                file = os.memfd_create("more")
                ask((file,), FDSTORE=1, FDNAME="more")
                ask(FDSTOREREMOVE=1, FDNAME="more")
                ask(CREATE="vm")
                ask(ODD=1)
                ask(READY=1)
        except (OSError, KeyError) as error:
            print("error", error, file=report, flush=True)
        print("done", file=report, flush=True)
    if not held:
        os.read(0, 1)
    return 0

log = Log("supervisor", "debug")
with Listening(*sys.argv[1:4], log) as listening:
    Supervisor(listening, serve, log).run()
"""

_AGAIN = 2
"""Serves that have to do all of it while the call fails, and after."""
_MOST = 12
"""A call that is made more often fails at each of so many."""


class Supervisor:
    """The test's own supervisor, with a serve that reports through a named pipe."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        os.mkfifo(folder / "report")
        self._report = Fd(os.open(folder / "report", os.O_RDWR | os.O_CLOEXEC))
        self._rest = b""
        self._log = (folder / "log").open("wb")
        places = [str(folder / name) for name in ("luod.sock", "admin.sock", "state")]
        words = [sys.executable, "-c", _SUPERVISOR, *places, str(folder / "report")]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=self._log)
        self.pidfd = Fd(os.pidfd_open(self.process.pid))
        self.log = folder / "log"

    def line(self) -> str:
        """Returns the next line of the report."""
        while b"\n" not in self._rest:
            poll = select.poll()
            poll.register(self._report, select.POLLIN)
            poll.register(self.pidfd, select.POLLIN)
            ready = [number for number, _ in poll.poll(60_000)]
            assert self.pidfd.fileno() not in ready, f"the supervisor has ended: {self.log.read_text()}"
            assert ready, f"serve does nothing any more: {self.log.read_text()}"
            self._rest += os.read(self._report.fileno(), 4096)
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()

    def serve(self) -> int:
        return int(self.log.read_text().rpartition("serve-started pid=")[2].split()[0])

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for fd in (self._report, self.pidfd):
            fd.close()
        self._log.close()


def fails_once(folder: Path, call: str, error: str, number: int) -> bool:
    """Has the supervisor's call of that number fail. Returns whether there was one."""
    supervisor = Supervisor(folder)
    try:
        assert [supervisor.line(), supervisor.line()] == ["started", "done"]
        trace = [
            require_tool("strace", package="strace"),
            "-qq",
            "-p",
            str(supervisor.process.pid),
            "-o",
            str(folder / "trace"),
        ]
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}"]
        with subprocess.Popen([*trace, *inject], stderr=subprocess.PIPE, text=True) as strace:
            try:
                # It is traced from here on: strace itself says nothing of it.
                traced, status = f"TracerPid:\t{strace.pid}", Path(f"/proc/{supervisor.process.pid}/status")
                eventually(lambda: traced in status.read_text() or strace.poll(), describe="the supervisor is traced")
                if strace.poll() is not None:
                    assert strace.stderr is not None
                    cannot_run(f"strace: {strace.stderr.read().strip()}")
                os.kill(supervisor.serve(), signal.SIGKILL)
                done = 0
                while done < _AGAIN:
                    line = supervisor.line()
                    if line.startswith("started"):
                        assert line == "started held.1 held.2", supervisor.log.read_text()
                    done += line == "done"
            finally:
                strace.terminate()
        assert supervisor.process.poll() is None
        return "INJECTED" in (folder / "trace").read_text()
    finally:
        supervisor.close()


@pytest.mark.parametrize(("call", "error"), [(call, error) for call, errors in CALLS.items() for error in errors])
def test_keep_lives_and_holds_what_it_holds_whatever_call_fails(tmp_path: Path, call: str, error: str) -> None:
    number = 1
    while number <= _MOST and fails_once(tmp_path / str(number), call, error, number):
        number += 1
