"""One boot while it runs: its processes, its traps, and the signals that reach luoemu meanwhile.

`boot` starts the processes, `trap.supervisor` answers their calls. What outlives a kexec (the kernel's state, the
hardware) is in `machine`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from luod.emulator.machine import boot, channel
from luod.emulator.machine.faults import MachineError, own_faults_told
from luod.emulator.machine.signals import Received, SignalFd
from luod.emulator.trap import kexec_state
from luod.emulator.trap.kexec_state import KexecState
from luod.emulator.trap.process.placeholder import Identity
from luod.emulator.trap.supervisor import Stopped, Supervisor
from luod.linux import Fd

if TYPE_CHECKING:
    from luod.emulator.machine.hardware import Hardware
    from luod.emulator.model.kernel import Kernel
    from luod.emulator.trap.devices.devices import DeviceSide

_PF_EXITING: Final = 0x4
"""A bit of a process's flags in /proc/PID/stat."""


class RunningBoot:
    """One boot's processes and traps. Leaving the context ends them and waits for their end."""

    def __init__(
        self,
        order: boot.Order,
        kernel: Kernel,
        hardware: Hardware | None,
        signals: SignalFd,
        tell: Callable[[str], None],
    ) -> None:
        self.interrupted: int | None = None
        """128 + N when signal N came before init ran, or while the boot's processes ended, as after a kexec."""
        self._kernel = kernel
        self._hardware = hardware
        self._signals = signals
        self._tell = tell
        self._supervisor: Supervisor | None = None
        self._init: Fd | None = None
        self._init_pid = 0
        self._kexec_files: dict[str, Fd] = {}
        self._fuse: Fd | None = None
        self._devices: DeviceSide | None = None
        self._status: int | None = None
        self._keeper, self._channel = boot.start(order)

    def __enter__(self) -> RunningBoot:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._kill()
        try:
            if self._supervisor is not None and kind is None:
                self._end(self._supervisor)
        finally:
            self._close()

    def _close(self) -> None:
        if self._supervisor is not None:
            # After an error nothing answers a caller any more, and one that waits for its answer does not die.
            self._supervisor.close()
            self._await_end()
        os.waitpid(self._keeper, 0)
        for fd in (self._init, self._fuse, *self._kexec_files.values()):
            if fd is not None:
                fd.close()
        if self._devices is not None:
            self._devices.close()
        self._channel.close()

    def _end(self, supervisor: Supervisor) -> None:
        """Answers dying processes, which still close fds of the node, until init's end or a signal."""
        with own_faults_told():
            supervisor.give_up()
            while self._status is None and self.interrupted is None:
                if supervisor.run([self._channel, self._signals]) is Stopped.WATCHED:
                    self._note_signals()
                    self._listen(block=False)

    def _await_end(self) -> None:
        """Waits for init's end without answers. A signal ends the wait: the keeper's end kills what is left."""
        poll = self._poll()
        while self._status is None:
            poll.poll()
            try:
                self._listen(block=False)
            except MachineError as error:
                self._tell(str(error))
            if self._note_signals():
                os.kill(self._keeper, signal.SIGKILL)
                return

    def _poll(self) -> select.poll:
        """Returns a poll object for the channel and the signals."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        return poll

    def _note_signals(self) -> bool:
        """Returns whether signals came, and keeps the last: before init runs, or after it was killed, they end the
        machine.
        """
        received = self._signals.received()
        for each in received:
            self.interrupted = 128 + each.number
        return bool(received)

    def run(self) -> int | None:
        """Returns the machine's exit status, or None after a kexec. Raises MachineError."""
        with own_faults_told():
            supervisor = self._await_start()
            return self.interrupted if supervisor is None else self._run(supervisor, self._signals)

    def _run(self, supervisor: Supervisor, signals: SignalFd) -> int | None:
        ended_by = 0
        while True:
            match supervisor.run([self._channel, signals]):
                case Stopped.JUMP:
                    return None
                case Stopped.ENDING:
                    return 0
                case Stopped.WATCHED:
                    for received in signals.received():
                        if not self._leaves_to_init(received):
                            ended_by = received.number
                    if ended_by:
                        return 128 + ended_by
                    self._listen(block=False)
                    if self._status is not None:
                        code = os.waitstatus_to_exitcode(self._status)
                        return code if code >= 0 else 128 - code

    def _await_start(self) -> Supervisor | None:
        """Waits until init runs under its filter. Returns None when a signal came first.

        The keeper looks at everything in /dev, and may hang there, at a dead network file system for example.
        """
        listener: Fd | None = None
        device: int | None = None
        node: Identity | None = None
        user_namespace = 0
        poll = self._poll()
        while listener is None or self._init is None:
            if self._channel.fileno() not in dict(poll.poll()):
                self._note_signals()
                if listener is not None:
                    listener.close()
                return None
            message = channel.receive(self._channel)
            if message is None:
                raise MachineError("a process that starts the machine was killed; check for lack of memory")
            content, fds = message.content, message.fds
            if "error" in content:
                raise MachineError(content["error"])
            if "devices" in content:
                self._devices = self._device_side(content["devices"], fds)
            elif "furnished" in content:
                self._kexec_files = dict(zip(kexec_state.NAMES, fds, strict=False))
                rest = fds[len(kexec_state.NAMES) :]
                user_namespace = content["user_namespace"]
                if rest:
                    self._fuse = rest[0]
                    device = content["device"]
                if content["node"] is not None:
                    number, inode = content["node"]
                    node = (number, inode)
                    why = f" ({content['why']})" if content["why"] else ""
                    self._tell(f"no FUSE node{why}: opening is trapped, with the differences in docs/divergences.md")
            elif "init" in content:
                self._init, self._init_pid = fds[0], content["init"]
            elif "listener" in content:
                listener = fds[0]
            elif "status" in content:
                raise MachineError("init died before it was started; check for lack of memory")
        fuse, self._fuse = self._fuse, None
        devices, self._devices = self._devices, None
        self._supervisor = Supervisor(
            self._kernel,
            listener,
            fuse=fuse,
            device=device,
            node=node,
            user_namespace=user_namespace,
            kexec_state=KexecState(self._kernel, self._kexec_files, self._tell),
            devices=devices,
        )
        return self._supervisor

    def _device_side(self, described: list[tuple[str, int]], fds: tuple[Fd, ...]) -> DeviceSide:
        from luod.emulator.trap.devices.devices import DeviceSide, Mount

        hardware, vfio = self._hardware, self._kernel.vfio
        assert hardware is not None, "it was asked for them"
        assert vfio is not None, "there is hardware"
        opener, *fuses = fds
        mounts = [Mount(place, fuse, number) for (place, number), fuse in zip(described, fuses, strict=True)]
        requests = socket.socket(fileno=opener.detach())
        return DeviceSide(
            vfio,
            hardware.memory,
            mounts,
            requests,
            opener_tid=self._keeper,
            can_map=hardware.bus.can_map,
            ending=self._init_is_ending,
        )

    def _init_is_ending(self) -> bool:
        """Returns whether init is dead except for its children."""
        try:
            with open(f"/proc/{self._init_pid}/stat", encoding="utf-8", errors="replace") as line:
                flags = int(line.read().rpartition(")")[2].split()[6])
        except OSError as error:
            return error.errno != errno.EMFILE  # luoemu's own limit says nothing of init
        return bool(flags & _PF_EXITING)

    def _listen(self, *, block: bool = True) -> None:
        """Receives the message with init's end from the channel. Raises MachineError when the keeper failed instead."""
        self._channel.setblocking(block)
        try:
            message = channel.receive(self._channel)
        except BlockingIOError:
            return
        finally:
            self._channel.setblocking(True)
        if message is None:
            self._status = signal.SIGKILL  # as if init had been killed: its keeper was, and that ends init
        elif "status" in message.content:
            self._status = message.content["status"]
        elif "error" in message.content:
            raise MachineError(message.content["error"])

    def _leaves_to_init(self, received: Received) -> bool:
        """Returns whether init is to handle the signal.

        A ^C in a terminal reaches init too. If init handles it, as a shell does, init decides.
        """
        if received.number != signal.SIGINT or not received.from_terminal:
            return False
        try:
            with open(f"/proc/{self._init_pid}/status", encoding="utf-8", errors="replace") as lines:
                fields = dict(line.split(":", 1) for line in lines)
        except OSError:
            return True  # it has ended, perhaps in its handler: its status, which is on the way, decides
        return fields["State"].split()[0] in "ZX" or bool(int(fields["SigCgt"], 16) >> (signal.SIGINT - 1) & 1)

    def _kill(self) -> None:
        if self._init is not None:
            # Also after the end of the keeper, which may have been killed itself.
            _signal(self._init)
        else:
            os.kill(self._keeper, signal.SIGKILL)


def _signal(process: Fd) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)
