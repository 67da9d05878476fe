"""Answers the system calls of one boot: takes them from the listener and FUSE, asks the model, returns the answers.

It runs outside the machine's namespaces, in one thread. It reports closed files to the model before each
call, so that `close(session); create(the same name)` succeeds. How a boot starts and what follows it is in
`machine.boot`.
"""

from __future__ import annotations

import enum
import errno
import os
import select
from collections import deque
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Final, Protocol

from luod.emulator.model.files import DeviceFile, SessionFile
from luod.emulator.model.kernel import Kernel
from luod.emulator.model.ports import Errno
from luod.emulator.model.results import Blocked, Delayed, Ending, Jump, Unfinished
from luod.emulator.trap.fuse.server import FuseNode
from luod.emulator.trap.kexec_state import KexecState
from luod.emulator.trap.process.caller import Surroundings, Thread
from luod.emulator.trap.process.frozen import TRAPPED, is_refused
from luod.emulator.trap.process.kexec_arguments import KexecFiles, Segments
from luod.emulator.trap.process.nesting import is_nested
from luod.emulator.trap.process.placeholder import Identity, Placeholders
from luod.emulator.trap.process.procfs import status_field
from luod.emulator.trap.seccomp.bpf import CALLS, OPENS, Call
from luod.emulator.trap.seccomp.notify import Listener, Notification
from luod.emulator.trap.seccomp.opening import opens_device
from luod.linux import Fd
from luod.uapi import seccomp

if TYPE_CHECKING:
    from luod.emulator.model.vfio.files import ModelFile
    from luod.emulator.trap.devices.devices import Devices, DeviceSide

_U32: Final = 0xFFFFFFFF
# In Python 3.11 `Call.IOCTL` is a function call, and every ioctl would make it.
_IOCTL: Final = Call.IOCTL
_LUO_FILES: Final = (SessionFile, DeviceFile)
_SHORTAGES: Final = {errno.EMFILE: errno.ENFILE, errno.ENFILE: errno.ENFILE, errno.ENOMEM: errno.ENOMEM}
"""The errno of a shortage of luoemu itself, and the errno that the caller gets for it."""
_CAP_DAC_OVERRIDE: Final = 1
_STATUS: Final = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_SYNC | os.O_NOATIME
"""The flags of open(2) that an open file keeps."""


class Stopped(enum.Enum):
    """Why `Supervisor.run` returned."""

    JUMP = "a process called reboot with LINUX_REBOOT_CMD_KEXEC"
    ENDING = "a process halted, restarted or powered off the machine"
    WATCHED = "one of the watched fds became readable"


class _Fileno(Protocol):
    def fileno(self) -> int: ...


class LiveUpdateDevice:
    """/dev/liveupdate behind its FUSE node. The model allows one open at a time."""

    def __init__(self, kernel: Kernel, thread: Callable[[int], Thread]) -> None:
        """`thread` returns the caller of a tid."""
        self._kernel = kernel
        self._thread = thread
        self._open: dict[int, DeviceFile] = {}
        self._next = 1

    @property
    def opened(self) -> DeviceFile | None:
        """Returns the open file, or None."""
        return next(iter(self._open.values()), None)

    def open(self) -> int:
        file = self._kernel.open_liveupdate()
        handle, self._next = self._next, self._next + 1
        self._open[handle] = file
        return handle

    def release(self, handle: int) -> None:
        file = self._open.pop(handle, None)
        if file is not None:
            self._kernel.release(file)

    def ioctl(self, handle: int, tid: int, command: int, argument: int) -> int:
        """Returns the errno of an ioctl of a foreign type. Seccomp traps those of its own type."""
        file = self._open.get(handle)
        if file is None:
            raise Errno(errno.EBADF)
        result = self._kernel.ioctl(file, command, argument, self._thread(tid))
        if isinstance(result, Blocked):  # only ioctls of its own type sleep
            raise Errno(errno.EINTR)
        return result


class Supervisor:
    """One boot's traps. Takes ownership of the listener and, if there is one, the fd of /dev/fuse."""

    def __init__(
        self,
        kernel: Kernel,
        listener: Fd,
        *,
        fuse: Fd | None,
        device: int | None,
        node: Identity | None = None,
        user_namespace: int,
        kexec_state: KexecState,
        devices: DeviceSide | None = None,
    ) -> None:
        """`fuse` is mounted already. `node`: where opening is trapped, the socket in place of the node."""
        self._kernel = kernel
        self._listener = Listener(listener)
        self._placeholders: Placeholders[DeviceFile | SessionFile] = Placeholders()
        self._around = Surroundings(self._listener, self._placeholders, device, user_namespace)
        self._devices: Devices | None = None
        if devices is not None:
            from luod.emulator.trap.devices.devices import Devices  # imported late: most machines have no devices

            self._devices = Devices(devices, self._around)
        self._device = LiveUpdateDevice(kernel, self._thread)
        self._node = FuseNode(fuse, self._device) if fuse is not None else None
        self._stand_in = node
        self._delayed: Delayed | None = None
        self._unfinished: deque[tuple[Notification, Thread]] = deque()
        self._kexec_state = kexec_state
        # The listener is not in the epoll. Woken by way of an epoll, this process would not stay on the caller's CPU
        # (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP), and waking another, idle CPU takes longer than the whole call.
        self._epoll = select.epoll()
        self._poll = select.poll()
        self._listener_fd = self._listener.fileno()
        self._poll.register(self._listener_fd, select.POLLIN)
        self._poll.register(self._epoll.fileno(), select.POLLIN)
        self._epoll.register(self._placeholders.fileno(), select.EPOLLIN)
        if self._node is not None:
            # Only now that it is mounted: before, /dev/fuse has no queue for epoll.
            self._epoll.register(self._node.fileno(), select.EPOLLIN)
        self._device_fds = self._devices.filenos() if self._devices is not None else ()
        for fd in self._device_fds:
            self._epoll.register(fd, select.EPOLLIN)

    def _thread(self, tid: int, notification: Notification | None = None) -> Thread:
        if self._devices is not None:
            return self._devices.thread(tid, notification)
        return Thread(self._around, tid, notification)

    def run(self, watched: list[_Fileno]) -> Stopped:
        """Answers calls until the machine stops in one of the ways of `Stopped`."""
        fds = frozenset(file.fileno() for file in watched)
        for fd in fds:
            self._epoll.register(fd, select.EPOLLIN)
        try:
            while True:
                calls = dict(self._poll.poll(self._timeout())).get(self._listener_fd, 0)
                notification = self._listener.receive() if calls & select.POLLIN else None
                # Files that were closed before this call show in epoll by now.
                if ready := dict(self._epoll.poll(0)):
                    self._note_ends(ready)
                stopped = None
                if notification is not None:
                    stopped = self._answer(notification)
                elif calls & select.POLLHUP:  # every process under the filter is gone
                    self._poll.unregister(self._listener_fd)
                if self._unfinished:
                    self._answer(*self._unfinished.popleft())
                if self._devices is not None:
                    self._devices.settle()
                if self._delayed is not None:
                    stopped = _stopped(self._delayed.poll())
                    if stopped is not None:
                        self._delayed = None
                if stopped is not None:
                    return stopped
                if not fds.isdisjoint(ready):
                    return Stopped.WATCHED
        finally:
            for fd in fds:
                self._epoll.unregister(fd)

    def _timeout(self) -> float | None:
        """Returns the milliseconds after which there is work without any event; None: never."""
        if self._unfinished:
            return 0
        seconds = None if self._devices is None else self._devices.timeout()
        return None if seconds is None else seconds * 1000

    def give_up(self) -> None:
        """Answers all callers that sleep in a call which only its answer ends: every process is being killed."""
        if self._devices is not None:
            self._devices.give_up()

    def close(self) -> None:
        """Ends the traps. Idempotent. A process that still waits for an answer gets an error of the host's kernel.

        It is ENOSYS from the listener, ECONNABORTED or ENOTCONN from FUSE. `run` must not follow.
        """
        self._epoll.close()
        self._listener.close()
        self._placeholders.close()
        if self._node is not None:
            self._node.close()
        if self._devices is not None:
            self._devices.close()

    def _note_ends(self, ready: Container[int]) -> None:
        """Answers pending requests at the nodes, and reports closed files to the model."""
        if self._node is not None and self._node.fileno() in ready and not self._node.serve():
            self._epoll.unregister(self._node.fileno())
            self._node.close()
            self._node = None
        if self._placeholders.fileno() in ready:
            for file in self._placeholders.ended():
                self._kernel.release(file)
        for fd in self._device_fds:
            if fd in ready:
                self._serve_devices(fd)

    def _serve_devices(self, fd: int) -> None:
        assert self._devices is not None, "its fds are waited for"
        if not self._devices.serve(fd):
            # It is closed by now, and so out of the epoll.
            self._device_fds = self._devices.filenos()

    def _answer(self, notification: Notification, thread: Thread | None = None) -> Stopped | None:
        """Answers a call. `thread` is the caller of an ioctl that continues."""
        try:
            if thread is None:
                return self._dispatch(notification)
            self._ioctl_in_turns(notification, thread)
        except Errno as error:
            self._listener.refuse(notification, error.code)
        except OSError as error:
            if error.errno in _SHORTAGES:
                self._listener.refuse(notification, _SHORTAGES[error.errno])
            # /proc shows nothing of a thread that was killed meanwhile.
            elif self._listener.alive(notification):
                raise
        return None

    def _dispatch(self, notification: Notification) -> Stopped | None:
        call = CALLS.get((notification.architecture, notification.number))
        thread = self._thread(notification.tid, notification)
        if call is _IOCTL:
            self._ioctl_in_turns(notification, thread)
            return None
        match call:
            case Call.REBOOT:
                return self._reboot(notification, thread)
            case Call.KEXEC_LOAD:
                _, count, address, flags, *_ = notification.arguments
                narrow = notification.architecture == seccomp.AUDIT_ARCH_I386
                segments = Segments(thread, count, address, narrow=narrow)
                self._load(notification, lambda: self._kernel.kexec_load(segments, flags, thread, narrow=narrow))
            case Call.KEXEC_FILE_LOAD:
                arguments = KexecFiles(thread, notification.arguments)
                load_flags = notification.arguments[4]
                self._load(notification, lambda: self._kernel.kexec_file_load(arguments, load_flags, thread))
            case _ if call in TRAPPED:
                narrow = notification.architecture == seccomp.AUDIT_ARCH_I386
                frozen = self._kernel.frozen_files
                if frozen and is_refused(thread, call, notification.arguments, frozen, narrow=narrow):
                    raise Errno(errno.EPERM)
                self._listener.let_through(notification)
            case _ if call in OPENS:
                self._open(notification, thread, call)
            case None:
                self._listener.let_through(notification)
        return None

    def _ioctl_in_turns(self, notification: Notification, thread: Thread) -> None:
        try:
            self._ioctl(notification, thread)
        except Unfinished:
            self._unfinished.append((notification, thread))

    def _ioctl(self, notification: Notification, thread: Thread) -> None:
        fd, command, argument, *_ = notification.arguments
        fd &= _U32
        identity = thread.identity(fd) if fd < 1 << 31 else None
        file = None if identity is None else self._file_of(identity)
        # If the caller was killed, another process may have its tid by now. The result does not matter then.
        if file is None or thread.only_path(fd) or not self._listener.alive(notification):
            self._listener.let_through(notification)
            return
        if isinstance(file, _LUO_FILES):
            result = self._kernel.ioctl(file, command & _U32, argument, thread)
        else:
            assert self._devices is not None, "the file is of a device"
            result = self._devices.ioctl(file, command & _U32, argument, thread)
        if not isinstance(result, Blocked):
            self._listener.answer(notification, result)

    def _file_of(self, identity: Identity) -> DeviceFile | SessionFile | ModelFile | None:
        """Returns the file that answers an ioctl; None where the host answers it."""
        file = self._placeholders.find(identity)
        if file is None and identity[0] == self._around.device:
            file = self._device.opened
        if file is None and self._devices is not None:
            return self._devices.file_of(identity)
        return file

    def _reboot(self, notification: Notification, thread: Thread) -> Stopped | None:
        if is_nested(notification.tid):
            # The host's kernel ends the init of that namespace, or refuses. If the caller was killed meanwhile, the tid
            # may have been another thread's.
            if self._listener.alive(notification):
                self._listener.let_through(notification)
            return None
        magic1, magic2, command, argument, *_ = notification.arguments
        result = self._kernel.reboot(magic1 & _U32, magic2 & _U32, command & _U32, argument, thread)
        match result:
            case Delayed():
                self._delayed = result
            case int(value):
                self._listener.answer(notification, value)
            case Jump() | Ending():
                return _stopped(result)
        return None

    def _open(self, notification: Notification, thread: Thread, call: Call) -> None:
        assert self._stand_in is not None, "opening is trapped"
        flags = opens_device(thread, call, notification.arguments, self._stand_in)
        if flags is None:
            self._listener.let_through(notification)
            return
        # The order of open(2): the fd, the name, the node's mode, the device.
        if not thread.has_free_fd():
            raise Errno(errno.EMFILE)
        if not _is_owner(thread) and not thread.capable(_CAP_DAC_OVERRIDE):
            raise Errno(errno.EACCES)
        file = self._kernel.open_liveupdate()
        try:
            if flags & os.O_DIRECT:  # found only once the device has been opened
                raise Errno(errno.EINVAL)
            thread.install_placeholder(
                b"[liveupdate]", file, cloexec=bool(flags & os.O_CLOEXEC), send=True, status=flags & _STATUS
            )
        except (Errno, OSError):
            self._kernel.release(file)
            raise

    def _load(self, notification: Notification, load: Callable[[], int]) -> None:
        self._kexec_state.read()
        try:
            value = load()
        finally:
            self._kexec_state.show()
        self._listener.answer(notification, value)


def _stopped(result: Jump | Ending | None) -> Stopped | None:
    match result:
        case Jump():
            return Stopped.JUMP
        case Ending():
            return Stopped.ENDING
    return None


def _is_owner(thread: Thread) -> bool:
    """Returns whether the caller is the machine's root, as whose file the device appears: it has mode 0600."""
    try:
        _, _, _, file_system_uid = status_field(thread.tid, "Uid:").split()
    except OSError as error:
        raise Errno(error.errno or errno.ESRCH) from None
    return int(file_system_uid) == os.geteuid()
