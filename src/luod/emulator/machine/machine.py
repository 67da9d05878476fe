"""One emulated machine: boots its init, answers its calls, and follows it over kexecs until it ends.

It runs in the `luoemu` process, outside of the machine's namespaces. `boot` starts the processes, `trap.supervisor`
answers them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from luod.emulator.machine import boot, channel, stub
from luod.emulator.machine.nodes import KERNEL_IMAGE, KERNEL_IMAGE_NO_VFIO
from luod.emulator.machine.signals import Received, SignalFd
from luod.emulator.model import kvm
from luod.emulator.model.kernel import Kernel
from luod.emulator.model.profile import Features, KvmRules, Profile
from luod.emulator.model.results import Panic
from luod.emulator.trap import kexec_state
from luod.emulator.trap.kexec_state import KexecState
from luod.emulator.trap.process.memory_files import HostMemory
from luod.emulator.trap.process.placeholder import Identity
from luod.emulator.trap.supervisor import Stopped, Supervisor
from luod.linux import Fd

if TYPE_CHECKING:
    from luod.emulator.model.vfio.hardware.description import DeviceDescription
    from luod.emulator.model.vfio.rules import Rules
    from luod.emulator.trap.devices.devices import DeviceSide

FAILED: Final = 125
"""Exit status when the machine itself fails. Init's own statuses are passed through."""
_PF_EXITING: Final = 0x4
"""A bit of a process's flags in /proc/PID/stat."""


class MachineError(Exception):
    """The machine cannot be started or cannot continue. The message gives the reason and a remedy in one sentence."""


@dataclass(frozen=True)
class DeviceSettings:
    descriptions: Sequence[DeviceDescription]
    rules: Rules
    iommufd_preservation: bool = False
    """Preserve iommufds as the posted iommufd series does. The two rule tables do not cover this."""


@dataclass(frozen=True)
class Settings:
    command: Sequence[str]
    profile: Profile = Profile.MAINLINE
    share_network: bool = False
    trap_opens: bool = False
    """Trap open, openat and openat2 instead of mounting a FUSE node."""
    kvm: KvmRules | None = None
    """Preserve KVM's files by these rules."""
    log: bool = False
    """Write the emulated kernel's log to stderr."""
    devices: DeviceSettings | None = None
    init: Callable[[Mapping[str, str]], NoReturn] | None = None
    """Runs in place of `command`, in a fork of this process. It is given init's environment."""

    @property
    def features(self) -> Features:
        return dataclasses.replace(self.profile.features, kvm=self.kvm)


class Machine:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._told = set[str]()

    def run(self) -> int:
        """Boots until init ends without a kexec. Returns its exit status, 128 + N when signal N ended it.

        Raises MachineError.
        """
        _raise_open_files()
        signals = SignalFd((signal.SIGINT, signal.SIGTERM))
        hardware = None if self._settings.devices is None else _Hardware(self._settings.devices, self._log)
        host, bus = (hardware.memory, hardware.bus) if hardware else (HostMemory(self._log), None)
        kernel = Kernel(host, features=self._settings.features, bus=bus)
        try:
            while True:
                with _Boot(self._order(kernel, signals), kernel, hardware, signals, self._tell) as running:
                    end = running.run()
                if end is None:
                    end = running.interrupted
                if end is not None:
                    return end
                try:
                    with _own_faults_told():
                        kernel = kernel.jump()
                except Panic as panic:
                    raise MachineError(f"the kernel of boot {kernel.boot + 1} panics: {panic}") from None
        finally:
            kernel.close()
            if bus is not None:
                bus.close()
            signals.close()

    def _order(self, kernel: Kernel, signals: SignalFd) -> boot.Order:
        environment = dict(os.environ)
        environment |= {
            "LUOEMU_BOOT": str(kernel.boot),
            "LUOEMU_KERNEL": KERNEL_IMAGE,
            "LUOEMU_PROFILE": self._settings.profile.value,
        }
        formats = stub.FORMATS if self._settings.kvm is None else stub.FORMATS + kvm.FORMATS
        images: dict[str, tuple[str, ...]] = {KERNEL_IMAGE: formats, KERNEL_IMAGE_NO_VFIO: formats}
        places: tuple[str, ...] = ()
        if kernel.vfio is not None:
            from luod.emulator.machine import devices

            images[KERNEL_IMAGE] = formats + stub.DEVICE_FORMATS
            places = devices.places(kernel.vfio.sysfs)
        return boot.Order(
            command=self._settings.command,
            environment=environment,
            command_line=kernel.command_line,
            profile=self._settings.profile.value,
            images=images,
            share_network=self._settings.share_network,
            with_device=kernel.has_device,
            trap_opens=self._settings.trap_opens,
            open_files=self._open_files,
            signal_mask=signals.previous_mask,
            device_places=places,
            init=self._settings.init,
        )

    def _log(self, line: str) -> None:
        if self._settings.log:
            _say(f"kernel: {line}")

    def _tell(self, line: str) -> None:
        """Prints the line once for each machine, not for each boot."""
        if line not in self._told:
            self._told.add(line)
            _say(line)


class _Hardware:
    """The devices of a machine, which outlive its kexecs."""

    def __init__(self, settings: DeviceSettings, log: Callable[[str], None]) -> None:
        """Raises MachineError for devices that cannot be in one machine."""
        from luod.emulator.machine import devices
        from luod.emulator.model.vfio.bus import Bus
        from luod.emulator.trap.devices.memory import DeviceMemory

        self.memory = DeviceMemory(log)
        try:
            self.bus = Bus(
                self.memory,
                settings.descriptions,
                rules=settings.rules,
                iommufd_preservation=settings.iommufd_preservation,
            )
        except ValueError as error:
            raise MachineError(str(error)) from None
        self.bus.can_map = devices.can_map()


class _Boot:
    """One boot's processes and traps. Leaving the context ends them and waits for their end."""

    def __init__(
        self,
        order: boot.Order,
        kernel: Kernel,
        hardware: _Hardware | None,
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

    def __enter__(self) -> _Boot:
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
        with _own_faults_told():
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
        with _own_faults_told():
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
                    self._tell(f"no FUSE node{why}: opening is trapped, only paths to /dev/liveupdate itself are seen")
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


@contextlib.contextmanager
def _own_faults_told() -> Iterator[None]:
    """Prints the traceback of an exception that only a fault of luoemu raises, at once. Raises MachineError for it."""
    try:
        yield
    except (MachineError, OSError, Panic):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the fault is, the machine ends with words
        traceback.print_exc()
        sys.stderr.flush()
        raise MachineError(boot.own_fault(error)) from None


def _say(line: str) -> None:
    """Writes a line to standard error. That its reader is gone does not end the machine."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), os.fsencode(f"luoemu: {line}\n"))


def _signal(process: Fd) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)


def _raise_open_files() -> None:
    """Raises the limit of open files: every kept file and every unix peer takes an fd here.

    Root may raise it up to the kernel's maximum.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    del soft
    wanted = 1 << 20 if os.geteuid() == 0 else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, hard), max(wanted, hard)))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
