"""A program that makes the raw calls a test asks for, one JSON line a call, and answers what the kernel said.

    {"do": "preserve", "session": "s", "fd": "m", "token": 1}   ->   {"ok": null}   or   {"errno": "EBUSY"}

Run inside a machine, emulated or real: `python3 -m tests.programs.questions`, standard library and luod.uapi only. An
fd is named by its slot ("s"), or given as a number. Bytes travel as text, one character each (latin-1). A question that
makes no sense is answered {"wrong": …}; {"gone": status} says that the asked child ended or became another program.

`{"do": "fork", "kid": "k"}` makes a child with duplicates of every fd, and {"in": ["k"], …} asks it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, Final

from luod.linux import syscall
from luod.uapi import kexec as kexec_api
from tests.programs.argument import MADV_REMOVE, Mapping, fallocate, remove_across
from tests.programs.descriptors import make
from tests.programs.session_calls import SessionCalls, Slot

__all__ = ["Process", "Slot"]

PR_SET_CHILD_SUBREAPER: Final = 36
CLONE_NEWPID: Final = 0x20000000


class Kid:
    """A forked child that answers questions on a socket."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self.connection = connection
        self.stream = connection.makefile("rw", encoding="utf-8")

    def close(self) -> None:
        self.stream.close()
        self.connection.close()


class Process(SessionCalls):
    """The calls one process can make, and what it holds: fds by slot, mappings, children."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        """0 in the program itself, 1 in its children, and so on."""
        self.channel = sys.stdout.fileno()
        """The fd to which it answers."""
        self.maps: dict[str, Mapping] = {}
        self.kids: dict[str, Kid] = {}
        self.scribbling: dict[str, tuple[threading.Thread, threading.Event]] = {}

    def serve(self, questions: IO[str], answers: IO[str]) -> None:
        """Answers until the other end is closed."""
        for line in questions:
            answers.write(json.dumps(self.reply(json.loads(line))) + "\n")
            answers.flush()

    def reply(self, question: dict[str, Any]) -> dict[str, Any]:
        path = question.pop("in", [])
        try:
            if path:
                return self._relay(path[0], {**question, "in": path[1:]})
            verb = getattr(self, "do_" + question.pop("do"))
            return {"ok": verb(**question)}
        except OSError as error:
            return {"errno": errno.errorcode.get(error.errno or 0, str(error))}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return {"wrong": f"{type(error).__name__}: {error}"}

    # -- fds -----------------------------------------------------------------------------------------------------

    def do_open(self, path: str, flags: int, slot: str, mode: int = 0o600) -> int:
        return self.put(slot, os.open(path, flags | os.O_CLOEXEC, mode))

    def do_reopen(self, fd: Slot, flags: int, slot: str) -> int:
        return self.put(slot, os.open(f"/proc/self/fd/{self.fd(fd)}", flags | os.O_CLOEXEC))

    def do_close(self, fd: Slot) -> None:
        number = self.fd(fd)
        if isinstance(fd, str):
            del self.slots[fd]
        os.close(number)

    def do_dup(self, fd: Slot, slot: str) -> int:
        return self.put(slot, os.dup(self.fd(fd)))

    def do_make(self, kind: str, slot: str) -> int:
        return self.put(slot, make(kind))

    def do_memfd(
        self, slot: str, size: int = 0, flags: int = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING, name: str = "questions"
    ) -> int:
        fd = self.put(slot, os.memfd_create(name, flags))
        os.ftruncate(fd, size)
        return fd

    def do_socketpair(self, slots: list[str]) -> None:
        for slot, end in zip(slots, socket.socketpair(), strict=True):
            self.put(slot, end.detach())

    def do_send_fd(self, over: Slot, fd: Slot) -> None:
        with socket.socket(fileno=os.dup(self.fd(over))) as connection:
            socket.send_fds(connection, [b"x"], [self.fd(fd)])

    def do_receive_fd(self, over: Slot, slot: str) -> int:
        with socket.socket(fileno=os.dup(self.fd(over))) as connection:
            return self.put(slot, socket.recv_fds(connection, 1, 1)[1][0])

    def do_getfl(self, fd: Slot) -> int:
        return fcntl.fcntl(self.fd(fd), fcntl.F_GETFL)

    def do_getfd(self, fd: Slot) -> int:
        return fcntl.fcntl(self.fd(fd), fcntl.F_GETFD)

    def do_seals(self, fd: Slot) -> int:
        return fcntl.fcntl(self.fd(fd), fcntl.F_GET_SEALS)

    def do_add_seals(self, fd: Slot, seals: int) -> None:
        fcntl.fcntl(self.fd(fd), fcntl.F_ADD_SEALS, seals)

    def do_stat(self, fd: Slot) -> dict[str, int]:
        found = os.fstat(self.fd(fd))
        names = ("st_mode", "st_uid", "st_gid", "st_size", "st_blocks", "st_nlink", "st_rdev", "st_ino", "st_dev")
        return {name.removeprefix("st_"): getattr(found, name) for name in names}

    def do_stat_path(self, path: str) -> dict[str, int]:
        found = os.stat(path)
        return {"mode": found.st_mode, "uid": found.st_uid, "gid": found.st_gid, "rdev": found.st_rdev}

    def do_link(self, fd: Slot) -> str:
        return os.readlink(f"/proc/self/fd/{self.fd(fd)}")

    def do_fdinfo(self, fd: Slot) -> list[str]:
        with open(f"/proc/self/fdinfo/{self.fd(fd)}", encoding="ascii") as file:
            return [line.split(":")[0] for line in file]

    # -- contents ------------------------------------------------------------------------------------------------

    def do_read(self, fd: Slot, length: int) -> str:
        return os.read(self.fd(fd), length).decode("latin-1")

    def do_write(self, fd: Slot, data: str) -> int:
        return os.write(self.fd(fd), data.encode("latin-1"))

    def do_pread(self, fd: Slot, length: int, offset: int) -> str:
        return os.pread(self.fd(fd), length, offset).decode("latin-1")

    def do_pwrite(self, fd: Slot, data: str, offset: int) -> int:
        return os.pwrite(self.fd(fd), data.encode("latin-1"), offset)

    def do_copy(self, fd: Slot, call: str, data: str, offset: int) -> int:
        """Copies `data` from another file, or from a pipe for splice, to the file at `offset`, by the system call."""
        target = self.fd(fd)
        source = os.memfd_create("source")
        inlet, outlet = os.pipe()
        try:
            os.write(source, data.encode("latin-1"))
            os.write(outlet, data.encode("latin-1"))
            match call:
                case "sendfile":
                    os.lseek(target, offset, os.SEEK_SET)
                    return os.sendfile(target, source, 0, len(data))
                case "splice":
                    return os.splice(inlet, target, len(data), offset_dst=offset)
                case "copy_file_range":
                    return os.copy_file_range(source, target, len(data), 0, offset)
            raise ValueError(call)
        finally:
            for number in (source, inlet, outlet):
                os.close(number)

    def do_fill(self, fd: Slot, length: int, seed: int) -> str:
        """Writes `length` bytes that only `seed` tells, and returns their sha256."""
        data = hashlib.shake_128(seed.to_bytes(8, "big")).digest(length)
        os.pwrite(self.fd(fd), data, 0)
        return hashlib.sha256(data).hexdigest()

    def do_digest(self, fd: Slot) -> str:
        """Returns the sha256 of the whole contents."""
        number = self.fd(fd)
        return hashlib.sha256(os.pread(number, os.fstat(number).st_size, 0)).hexdigest()

    def do_lseek(self, fd: Slot, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self.fd(fd), offset, whence)

    def do_fsync(self, fd: Slot) -> None:
        os.fsync(self.fd(fd))

    def do_ftruncate(self, fd: Slot, size: int) -> None:
        os.ftruncate(self.fd(fd), size)

    def do_truncate(self, fd: Slot, size: int) -> None:
        """Calls truncate(2) with the path of the fd."""
        os.truncate(f"/proc/self/fd/{self.fd(fd)}", size)

    def do_fallocate(self, fd: Slot, mode: int, offset: int, length: int) -> None:
        fallocate(self.fd(fd), mode, offset, length)

    def do_fchmod(self, fd: Slot, mode: int) -> None:
        os.fchmod(self.fd(fd), mode)

    def do_fchown(self, fd: Slot, uid: int, gid: int) -> None:
        os.fchown(self.fd(fd), uid, gid)

    def do_poll(self, fd: Slot) -> int:
        """Returns the events of an fd that is ready at once, or 0."""
        poll = select.poll()
        poll.register(self.fd(fd), select.POLLIN | select.POLLOUT)
        return sum(events for _, events in poll.poll(0))

    def do_epoll_add(self, fd: Slot) -> None:
        with select.epoll() as epoll:
            epoll.register(self.fd(fd), select.EPOLLIN)

    def do_map(self, name: str, fd: Slot, length: int, write: bool = True) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        self.maps[name] = Mapping(self.fd(fd), length, protection, mmap.MAP_SHARED)

    def do_unmap(self, name: str) -> None:
        self.maps.pop(name).close()

    def do_peek(self, name: str, offset: int, length: int) -> str:
        return self.maps[name].read(offset, length).decode("latin-1")

    def do_poke(self, name: str, offset: int, data: str) -> None:
        self.maps[name].write(offset, data.encode("latin-1"))

    def do_madvise_remove(self, name: str, length: int | None = None) -> None:
        self.maps[name].advise(MADV_REMOVE, length)

    def do_madvise_remove_across(self, first: str, other: Slot, fd: Slot) -> None:
        remove_across(first, self.fd(other), self.fd(fd))

    def do_process_madvise_remove(self, name: str) -> int:
        return self.maps[name].advise_by_process(MADV_REMOVE)

    def do_scribble(self, fd: Slot) -> None:
        """Starts a thread that writes the first bytes of the file until `stop_scribbling`."""
        number, stop, started = self.fd(fd), threading.Event(), threading.Event()

        def scribble() -> None:
            while not stop.is_set():
                os.pwrite(number, b"scribble", 0)
                started.set()

        thread = threading.Thread(target=scribble)
        thread.start()
        started.wait()
        self.scribbling[str(fd)] = thread, stop

    def do_stop_scribbling(self, fd: Slot) -> None:
        thread, stop = self.scribbling.pop(str(fd))
        stop.set()
        thread.join()

    # -- processes -----------------------------------------------------------------------------------------------

    def do_fork(self, kid: str) -> int:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if self.depth == 0:
            os.setpgid(pid, 0)  # by both, so that neither has to wait for the other
        if pid:
            theirs.close()
            self.kids[kid] = Kid(pid, ours)
            return pid
        status = 1
        try:
            self.depth += 1
            ours.close()
            for other in self.kids.values():
                other.close()
            self.kids.clear()
            self.channel = theirs.fileno()
            with theirs, theirs.makefile("rw", encoding="utf-8") as stream:
                self.serve(stream, stream)
            status = 0
        finally:
            os._exit(status)

    def _relay(self, name: str, question: dict[str, Any]) -> dict[str, Any]:
        kid = self.kids[name]
        kid.stream.write(json.dumps(question) + "\n")
        kid.stream.flush()
        if line := kid.stream.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        pid, status = os.waitpid(kid.pid, os.WNOHANG)
        return {"gone": os.waitstatus_to_exitcode(status) if pid else None}

    def do_end(self, kid: str, number: int = signal.SIGKILL) -> int:
        """Kills a child and waits until every reference it held is gone; the program itself takes its children too."""
        child = self.kids.pop(kid)
        if self.depth:
            os.kill(child.pid, number)
            status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
            child.close()  # not before: at the end of its input it would end by itself
            return status
        os.killpg(child.pid, number)
        status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        child.close()
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-child.pid, 0)
        return status

    def do_exec(self, argv: list[str], keep: list[Slot]) -> None:
        """Becomes another program, which inherits the fds in `keep` and no other above 2.

        Its first part answers: when that runs, the kernel has closed all other files. At the end of this program's
        channel it may still be about to.
        """
        for slot in keep:
            os.set_inheritable(self.fd(slot), True)
        null = os.open("/dev/null", os.O_RDWR)
        for number, file in enumerate((null, self.channel, null)):
            os.dup2(file, number)
        become = f"echo '{json.dumps({'gone': None})}' && exec \"$@\" >/dev/null"
        os.execv("/bin/sh", ["sh", "-c", become, "sh", *argv])

    def do_become(self, uid: int) -> None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)

    def do_no_free_fd(self) -> None:
        """Lowers the limit so far that the next fd gets EMFILE."""
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    def do_free_fds(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def do_limit(self, name: str, soft: int) -> None:
        number = getattr(resource, f"RLIMIT_{name}")
        # A kernel that has just booted allows 4096 fds; root may have more.
        resource.setrlimit(number, (soft, max(soft, resource.getrlimit(number)[1])))

    def do_race(self, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Asks all of them at the same time, each in a thread."""
        answers: list[dict[str, Any]] = [{} for _ in questions]
        together = threading.Barrier(len(questions))

        def one(index: int) -> None:
            together.wait()
            answers[index] = self.reply(questions[index])

        threads = [threading.Thread(target=one, args=(index,)) for index in range(len(questions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def do_many(self, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Asks one after the other, for questions by the thousand."""
        return [self.reply(question) for question in questions]

    # -- the jump ------------------------------------------------------------------------------------------------

    def do_kexec_file_load(
        self, kernel: Slot, command_line: str = "", flags: int = kexec_api.KEXEC_FILE_NO_INITRAMFS, initrd: Slot = -1
    ) -> None:
        text = command_line.encode("latin-1") + b"\0"
        syscall("kexec_file_load", self.fd(kernel), self.fd(initrd), len(text), text, flags)

    def do_kexec_load(self, entry: int = 0, flags: int = 0) -> None:
        """Calls kexec_load(2) without segments, which unloads."""
        syscall("kexec_load", entry, 0, None, flags)

    def do_kexec_segments(self, segments: list[list[int]], readable: bool = True, flags: int = 0) -> None:
        """Calls kexec_load(2) with segments of bufsz, mem and memsz. They share a buffer of 8 KiB of zeros."""
        buffer = ctypes.create_string_buffer(8192)
        start = ctypes.addressof(buffer) if readable else 0
        packed = b"".join(struct.pack("=4Q", start, *segment) for segment in segments)
        syscall("kexec_load", 0, len(segments), packed, flags)

    def do_reboot(
        self,
        command: int = kexec_api.LINUX_REBOOT_CMD_KEXEC,
        magic1: int = kexec_api.LINUX_REBOOT_MAGIC1,
        magic2: int = kexec_api.LINUX_REBOOT_MAGIC2,
    ) -> None:
        syscall("reboot", magic1, magic2, command, None)

    def do_reboot_in_pid_namespace(self, command: int) -> int:
        """Calls reboot(2) in a new PID namespace. Returns the errno, or -N where signal N ended its init."""
        status = self._status_of(lambda: self._in_pid_namespace(command))
        return status - 256 if status >= 128 else status

    def _in_pid_namespace(self, command: int) -> int:
        syscall("unshare", CLONE_NEWPID)
        return self._status_of(lambda: self._try_reboot(command))

    def _try_reboot(self, command: int) -> int:
        try:
            self.do_reboot(command)
        except OSError as error:
            return error.errno or 0
        return 0

    @staticmethod
    def _status_of(work: Callable[[], int]) -> int:
        """Runs `work` in a child. Returns its result, or -N for the signal N that ended the child."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = work()
            finally:
                os._exit(status & 0xFF)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    syscall("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Process().serve(sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
