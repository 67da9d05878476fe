"""`luod`: holds every session fd, and the listening sockets, so that serve may die at any moment.

It parses nothing from clients. It is the only process of luod that opens /dev/liveupdate: open, one ioctl, close. It
executes the requests of `serve` (`requests`), and forks `serve` again, with all it holds, whenever that ends. It knows
neither owners nor the registry. It has no event loop and no threads.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module

from luod.daemon.log import Log
from luod.daemon.supervisor import protocol
from luod.daemon.supervisor.children import end, has_been_reaped, is_ending, reap, send
from luod.daemon.supervisor.custody import NO_ROOM, Custody, close
from luod.daemon.supervisor.init_store import InitStore
from luod.daemon.supervisor.notify import ServiceManager, watchdog_seconds
from luod.daemon.supervisor.requests import TRY_SECONDS, Message, Requests
from luod.daemon.supervisor.serve_process import Given, fork
from luod.daemon.supervisor.sockets import Listening
from luod.errors import KernelRefused, LiveUpdateBroken, LiveUpdateBusy, ProtocolError
from luod.frozen import frozen
from luod.ipc import framing
from luod.linux import Fd, boot_id
from luod.static import Final
from luod.version import __version__

_PATIENCE_SECONDS: Final = 10.0
"""The maximum wait of a request while another process has /dev/liveupdate open, such as systemd's PID 1 for a moment.
"""
_STEADY_SECONDS: Final = 1.0
"""A serve that lived for less died at once; the next one is started later."""
_PAUSE_FIRST: Final = 0.1
_PAUSE_LAST: Final = 5.0
_STOP_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 5.0
"""Seconds between checks whether serve was killed and does not end. One that exists at the second check is given up."""
_IMPORT_SECONDS: Final = 0.05
"""Between two imports: serve imports the same modules at that time."""
_ALIVE_AGAIN_SECONDS: Final = 1.0
"""After a report to the watchdog for which its socket had no room."""
_SEND_TRIES: Final = 5
_SEND_PAUSE: Final = 0.02


@frozen
class _Serve:
    """The running serve. Owns both fds."""

    pid: int
    pidfd: Fd
    channel: socket.socket
    started: float

    def close(self) -> None:
        close(self.pidfd)
        close(self.channel)


class Supervisor:
    def __init__(
        self,
        listening: Listening,
        run_serve: Callable[[Given], int],
        log: Log,
        *,
        manager: ServiceManager | None = None,
        custody: Custody | None = None,
        device: LiveUpdateBusy | LiveUpdateBroken | None = None,
        modules: Sequence[str] = (),
    ) -> None:
        """`run_serve` is serve, and returns its exit status. The caller owns the listening sockets.

        `custody`: the fds for serve, by default none. `device`: its answer to the first try. `modules`: what serve
        imports later, for the next serve.
        """
        self._manager = manager or ServiceManager("")
        self.custody = custody or Custody(InitStore(self._manager, 0, boot_id()), log)
        self._requests = Requests(self.custody)
        self._watchdog = watchdog_seconds()
        self._alive_at = 0.0
        self._listening = listening
        self._run_serve = run_serve
        self._log = log
        self._serve: _Serve | None = None
        self._deaf = False
        self._asked: Message | None = None
        self._start_at = 0.0
        self._pause = _PAUSE_FIRST
        self._stop_by: float | None = None
        self._device = device
        self._introduced = False
        self._modules = deque(modules)
        """The modules still to be imported, when serve is ready and there is nothing else to do."""
        self._is_ready = False
        self._look_at = 0.0
        self._ending = False
        """Whether serve was found to be ending at the last look."""
        self._left: list[int] = []
        """Processes of serve that were killed and do not end."""

    def run(self) -> int:
        """Runs until SIGTERM or SIGINT. SIGHUP is passed on to serve."""
        awake, wake = socket.socketpair()
        with awake, wake:
            awake.setblocking(False)
            wake.setblocking(False)
            # Inherited from the parent: children that the kernel reaps, signals that never arrive.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, lambda *_: None)
            try:
                while not (self._stop_by is not None and self._serve is None):
                    self._survive(awake)
            finally:
                signal.set_wakeup_fd(-1)
        self.custody.let_go()
        return 0

    def _survive(self, awake: socket.socket) -> None:
        """Runs a turn that cannot end this process: every session ends with it."""
        try:
            self._turn(awake)
        except Exception as error:  # noqa: BLE001 - a defect must not end every session; known failures are handled below
            try:
                self._log.error("turn-failed", error=repr(error))
            finally:
                time.sleep(TRY_SECONDS)

    def _turn(self, awake: socket.socket) -> None:
        now = time.monotonic()
        if self._serve is None and now >= self._start_at:
            self._start()
        if self._watchdog and now >= self._alive_at:
            self._alive_at = now + (_ALIVE_AGAIN_SECONDS if self._manager.alive() else self._watchdog / 2)
        self.custody.heal(now)
        poll = select.poll()
        poll.register(awake, select.POLLIN)
        if self._serve is not None:
            poll.register(self._serve.pidfd, select.POLLIN)
            if self._asked is None and not self._deaf:
                poll.register(self._serve.channel, select.POLLIN)
        ready = {number for number, _ in poll.poll(self._wait(now))}
        if not ready and self._modules and self._is_ready:
            import_module(self._modules.popleft())
        signals = _received(awake) if awake.fileno() in ready else set()
        if signals & {signal.SIGTERM, signal.SIGINT}:
            self._stop()
        serve = self._serve
        if signal.SIGHUP in signals:
            # The next serve reads the policy, and reports READY, if there is no serve now.
            self._manager.reloading()
        if serve is None:
            return
        if signal.SIGHUP in signals:
            send(serve.pid, signal.SIGHUP)
        if self._stop_by is not None and time.monotonic() > self._stop_by:
            self._log.warning("serve-killed", pid=serve.pid, reason="it did not end in time")
            send(serve.pid, signal.SIGKILL)
            self._stop_by = float("inf")
        if serve.pidfd.fileno() not in ready and time.monotonic() >= self._look_at and self._is_stuck(serve):
            self._leave(serve)
        elif self._asked is not None and serve.pidfd.fileno() in ready:
            self._give_up_asked()
        elif self._asked is not None:
            self._work(self._asked)
        elif serve.channel.fileno() in ready:
            self._receive()
        elif serve.pidfd.fileno() in ready:
            # Only once all its requests are done: one may still be in the channel.
            self._ended()

    def _wait(self, now: float) -> float | None:
        """Returns the milliseconds until the next deadline; None without one."""
        if self._asked is not None:
            return 0
        if self._serve is None:
            due = self._start_at
        else:
            due = self._look_at if self._stop_by is None else min(self._stop_by, self._look_at)
            if self._modules and self._is_ready:
                due = min(due, now + _IMPORT_SECONDS)
        due = min(due, self.custody.heal_due())
        return max(0.0, (due - now) * 1000 + 1)

    def _is_stuck(self, serve: _Serve) -> bool:
        """Returns whether serve is ending since the last look, such as in an uninterruptible call of the kernel."""
        before, self._ending = self._ending, is_ending(serve.pid)
        self._look_at = time.monotonic() + _LOOK_SECONDS
        self._left = [pid for pid in self._left if not has_been_reaped(pid)]
        return before and self._ending

    def _leave(self, serve: _Serve) -> None:
        """Continues without this serve, which holds its copies of the sessions until it ends."""
        self._log.error("serve-does-not-end", pid=serve.pid, hint="it waits in the kernel; see /proc/PID/stack")
        self._left.append(serve.pid)
        self._give_up_asked()
        self._start_at = time.monotonic()
        serve.close()
        self._serve = None

    def _stop(self) -> None:
        if self._stop_by is None:
            self._log("stopping")
            self._manager.stopping()
            self._stop_by = time.monotonic() + _STOP_SECONDS
            if self._serve is not None:
                send(self._serve.pid, signal.SIGTERM)

    def _start(self) -> None:
        """Starts serve. A failure for lack of resources is repeated: the sessions that only the supervisor holds end
        with it.
        """
        try:
            self._serve = self._fork()
        except (OSError, MemoryError) as error:
            self._pause = min(self._pause * 2, _PAUSE_LAST)
            self._start_at = time.monotonic() + self._pause
            self._log.error("serve-not-started", error=error, again_in=f"{self._pause:.1f}")
            return
        self._deaf = self._ending = False
        self.custody.copies.blackout(lasts=False)  # it tells again
        self._look_at = time.monotonic() + _LOOK_SECONDS
        if not self._introduced:
            self._introduce(self._serve.pid)
        self._log.debug("serve-started", pid=self._serve.pid)

    def _introduce(self, serve: int) -> None:
        """Writes the first lines of the log."""
        self._introduced = True
        boot = self.custody.copies.boot_id
        self._log(
            "started", version=__version__, supervisor=os.getpid(), serve=serve, fds=len(self.custody.fds), boot_id=boot
        )
        if isinstance(self._device, LiveUpdateBusy):
            self._log.warning("device-busy", hint="another process has /dev/liveupdate open")
        elif self._device is not None:
            # Clients and the operator must learn the meaning of that (docs/hazards.md, H20).
            self._log.error("device-broken", error=self._device, hint=self._device.hint)

    def _fork(self) -> _Serve:
        """Forks serve. Raises OSError: EMFILE, ENFILE, EAGAIN, ENOMEM; nothing is left behind."""
        with ExitStack() as undoing:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undoing.callback(close, ours)
            try:
                pid = fork(
                    self._run_serve,
                    Given(theirs, self._listening.sessions, self._listening.admin, dict(self.custody.fds)),
                )
            finally:
                close(theirs)
            undoing.callback(end, pid)
            serve = _Serve(pid, Fd(os.pidfd_open(pid)), ours, time.monotonic())
            undoing.pop_all()
            return serve

    def _ended(self) -> None:
        assert self._serve is not None
        status = reap(self._serve.pid)
        now = time.monotonic()
        lived = now - self._serve.started
        if self._stop_by is None:
            self._pause = _PAUSE_FIRST if lived >= _STEADY_SECONDS else min(self._pause * 2, _PAUSE_LAST)
            self._start_at = now if lived >= _STEADY_SECONDS else now + self._pause
            self._log.warning(
                "serve-ended",
                pid=self._serve.pid,
                status="?" if status is None else status,
                again_in=f"{self._start_at - now:.1f}",
            )
        self._serve.close()
        self._serve = None

    def _receive(self) -> None:
        assert self._serve is not None
        try:
            message, fds = framing.receive(self._serve.channel)
        except OSError as error:  # ECONNRESET: it died with an unread answer; the end of the channel comes next
            self._log.debug("channel", error=error)
            return
        except ProtocolError as error:
            self._log.error("channel", error=error)
            self._answer({"ERRNO": errno.EMFILE, "CALL": "recvmsg", "MEANING": NO_ROOM, "ALL": 1})
            return
        if not message:
            self._deaf = True  # it is ending; its pidfd reports the end
            return
        requests = protocol.decode(message)
        for request in requests:
            self._log.debug("asked", **{key.lower(): value for key, value in request.items()})
        self._asked = Message(deque(requests), deque(fds), time.monotonic() + _PATIENCE_SECONDS)
        self._work(self._asked)

    def _work(self, asked: Message) -> None:
        """Executes and answers the requests. Returns before they are done while another has the device open."""
        while asked.requests:
            request = asked.requests.popleft()
            try:
                answer = self._requests.execute(request, asked)
            except KernelRefused as error:
                if isinstance(error, LiveUpdateBusy) and time.monotonic() < asked.deadline and self._stop_by is None:
                    asked.requests.appendleft(request)
                    return
                answer = self._requests.refused(request, error)
            except Exception as error:  # noqa: BLE001 - serve waits for an answer to each request, also after a defect
                code = (error.errno if isinstance(error, OSError) else None) or errno.EINVAL
                answer = {"ERRNO": code, "CALL": "luod", "MEANING": str(error) or repr(error)}
            asked.answers.append(answer)
            if asked.opened is not None or not asked.requests:
                self.custody.settle()
                self._answer(*asked.answers, session=asked.opened)
                asked.answers, asked.opened = [], None
        self._asked = None
        asked.close()
        if asked.ready:
            self._serve_is_ready()

    def _serve_is_ready(self) -> None:
        self._pause = _PAUSE_FIRST
        self._is_ready = True
        self._log("ready")
        if reason := self._manager.ready():
            self._log.warning("not-notified", reason=reason, variable="NOTIFY_SOCKET")

    def _give_up_asked(self) -> None:
        """Drops the requests of a serve that has ended: it wrote no row for them."""
        if self._asked is not None:
            self._asked.close()
            self._asked = None

    def _answer(self, *answers: Mapping[str, object], session: Fd | None = None) -> None:
        assert self._serve is not None
        message = protocol.encode(*answers)
        for _ in range(_SEND_TRIES):
            try:
                framing.send(self._serve.channel, message, () if session is None else (session.fileno(),))
            except OSError as error:
                failed = error
                if error.errno in (errno.EPIPE, errno.ECONNRESET):
                    # It died meanwhile. The result is in the store, and the next serve finds it there.
                    self._log.debug("not-answered", error=error)
                    return
                time.sleep(_SEND_PAUSE)
            else:
                return
        # It waits for the answer. After its end, the next one finds the result in the store.
        self._log.error("not-answered", error=failed, meaning="serve is ended, and started again")
        send(self._serve.pid, signal.SIGKILL)


def _received(awake: socket.socket) -> set[int]:
    """Returns the signals that arrived."""
    try:
        return set(awake.recv(100))
    except OSError:
        return set()
