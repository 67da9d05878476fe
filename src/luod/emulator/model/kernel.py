"""`Kernel`: one boot of the modelled machine, from its command line to the kexec into the next.

It is the only class that `trap` and `machine` drive. It has no threads and never waits: a call returns a number, an
`Errno`, or `Blocked`. LUO itself is in `luo.py`, kexec and reboot in `kexec.py`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from luod.emulator.model import image, kvm
from luod.emulator.model.caller import Caller, KexecFiles, KexecSegment
from luod.emulator.model.files import DeviceFile, SessionFile
from luod.emulator.model.handler import FileHandler, HandlerTable
from luod.emulator.model.image import ImageReader
from luod.emulator.model.kexec import Kexec, Sysctls, permit_reboot, reboot_command
from luod.emulator.model.luo import Luo
from luod.emulator.model.memfd import MemfdHandler
from luod.emulator.model.ports import Errno, Host
from luod.emulator.model.profile import MAINLINE, Features
from luod.emulator.model.results import Blocked, Delayed, Ending, Jump, Panic, Waiting
from luod.emulator.model.session import SessionRecord
from luod.image.command_line import enabled
from luod.uapi.kexec import LINUX_REBOOT_CMD_KEXEC

if TYPE_CHECKING:  # a machine without devices does not load it
    from luod.emulator.model.vfio.bus import Bus
    from luod.emulator.model.vfio.vfio import Vfio

LUO_FORMAT = "luo-v5"
KHO_FORMAT = "kho-v4"
COMMAND_LINE = "liveupdate=on kho=on"
"""The default command line of a machine."""

HandlersOfBoot = Callable[[Host], Sequence[FileHandler[Any, Any]]]
"""Makes the handlers of a boot. Those whose format its image does not contain are not registered."""


def default_handlers(features: Features) -> HandlersOfBoot:
    """Returns what makes the handlers of a kernel with `features`, beside those of devices."""

    def handlers(host: Host) -> Sequence[FileHandler[Any, Any]]:
        memfds = MemfdHandler(host, tmpfs=features.tmpfs)
        # Before the handler of memfds, which stand in for KVM's files.
        return (memfds,) if features.kvm is None else (*kvm.handlers(host, features.kvm), memfds)

    return handlers


@dataclass(frozen=True)
class Machine:
    """The parts that stay the same over all boots."""

    host: Host
    features: Features
    handlers: HandlersOfBoot
    read_formats: ImageReader
    bus: Bus | None


@dataclass(frozen=True)
class Handover:
    """The contents of kexec handover. `number` counts consecutive live updates; 0: an ordinary boot."""

    number: int = 0
    sessions: tuple[SessionRecord, ...] = ()

    def drop(self) -> None:
        for session in self.sessions:
            session.drop()


class Kernel:
    """One boot. `Kernel(host, features=…)` is the first one; `jump()` makes each next one."""

    def __init__(
        self,
        host: Host,
        *,
        features: Features = MAINLINE,
        command_line: str = COMMAND_LINE,
        handlers: HandlersOfBoot | None = None,
        read_formats: ImageReader = image.read_formats,
        bus: Bus | None = None,
    ) -> None:
        """The first kernel has every handler, in this order, by default those of `features`. Later ones have those
        with a format in the image.

        The caller owns `bus`, the PCI devices, and closes it after the last kernel. Its handlers come last.
        """
        handlers = default_handlers(features) if handlers is None else handlers
        machine = Machine(host, features, handlers, read_formats, bus)
        self._boot_into(machine, 1, command_line, None, Handover())

    def _boot_into(
        self, machine: Machine, boot: int, command_line: str, formats: frozenset[str] | None, handover: Handover
    ) -> None:
        """Initialises this boot. `formats` None: all formats. Owns `handover`."""
        self._machine = machine
        self._boot = boot
        self._command_line = command_line
        self._formats = formats
        self._kexec = Kexec(machine.host, machine.read_formats)
        self._luo: Luo | None = None
        self._ending = False
        self._number = 0
        handover = self._find_handover(handover)
        wanted = self._speaks(LUO_FORMAT) and enabled(command_line, "liveupdate")
        if not wanted:
            handover.drop()
            handover = Handover()
        self._vfio: Vfio | None = None
        if machine.bus is not None:
            self._vfio = machine.bus.boot(boot, command_line, handover.sessions, self._speaks)
        if not wanted:
            return
        if not self._kho:
            machine.host.log("luo: Disabling liveupdate because KHO is disabled")
            return
        if handover.number:
            machine.host.log(f"luo: Retrieved live update data, liveupdate number: {handover.number}")
        self._number = handover.number
        every = list(machine.handlers(machine.host))
        if self._vfio is not None:
            every += self._vfio.handlers()
        table = HandlerTable(handler for handler in every if self._speaks(handler.compatible))
        self._luo = Luo(machine.host, table, handover.sessions, features=machine.features)

    def _find_handover(self, handover: Handover) -> Handover:
        """Returns the part of the handover that this kernel reads, and drops the rest.

        Raises `Panic` for LUO data of another format, as liveupdate_early_init() does (docs/kernel.md, 8).
        """
        if not handover.number:
            return handover
        if not self._kho or not self._speaks(KHO_FORMAT):
            handover.drop()
            if self._kho:
                self._machine.host.log("KHO: incompatible kexec handover data, ignored")
            return Handover()
        self._machine.host.log("KHO: found kexec handover data.")
        # An image with another format. One without LUO does not look for the data.
        others = any(name.startswith("luo-v") for name in self._formats or ())
        if others and not self._speaks(LUO_FORMAT) and enabled(self._command_line, "liveupdate"):
            handover.drop()
            raise Panic(f"luo: the carried data is {LUO_FORMAT}, which this kernel does not read")
        return handover

    def _speaks(self, name: str) -> bool:
        return self._formats is None or name in self._formats

    @property
    def _kho(self) -> bool:
        """Returns whether KHO is on.

        The measured kernel has it on by default; here, as for luod's preflight, it must be set.
        """
        has_kho = self._formats is None or any(name.startswith("kho-v") for name in self._formats)
        return has_kho and enabled(self._command_line, "kho")

    @property
    def boot(self) -> int:
        """Returns the number of the boot, from 1 on."""
        return self._boot

    @property
    def command_line(self) -> str:
        """Returns the contents of /proc/cmdline without newline; undecodable bytes as surrogates (surrogateescape)."""
        return self._command_line

    @property
    def liveupdate_number(self) -> int:
        """Returns the number of consecutive live updates before this boot; 0 after an ordinary boot."""
        return self._number

    @property
    def has_device(self) -> bool:
        """Returns whether the node /dev/liveupdate exists."""
        return self._luo is not None

    @property
    def kexec_loaded(self) -> bool:
        """Returns the contents of /sys/kernel/kexec_loaded."""
        return self._kexec.image is not None

    @property
    def kexec_sysctls(self) -> Sysctls:
        """Returns the settings in /proc/sys/kernel that limit loads."""
        return self._kexec.sysctls

    @property
    def vfio(self) -> Vfio | None:
        """Returns the PCI devices of this boot; None for a machine without any."""
        return self._vfio

    @property
    def frozen_files(self) -> Set[Hashable]:
        """Returns the identities (`HostFile.identity`) of the files whose size cannot change, as they are preserved."""
        return frozenset() if self._luo is None else self._luo.frozen_files

    def open_liveupdate(self) -> DeviceFile:
        """Opens /dev/liveupdate.

        Raises Errno: EBUSY while it is open; EIO, for the rest of the boot, when the carried state cannot be taken
        over; ENODEV without the device.
        """
        if self._luo is None:
            raise Errno(errno.ENODEV)
        return self._luo.open()

    def ioctl(self, file: DeviceFile | SessionFile, command: int, argument: int, caller: Caller) -> int | Blocked:
        """Returns 0, or raises Errno. Installs fds and writes memory through `caller` before it returns."""
        assert self._luo is not None, "its file is open"
        return self._luo.ioctl(file, command, argument, caller)

    def release(self, file: DeviceFile | SessionFile) -> None:
        """Releases the file: its last reference is gone.

        Never fails. Once for each file that was opened or installed.
        """
        assert self._luo is not None, "its file was open"
        self._luo.release(file)

    def kexec_file_load(self, arguments: KexecFiles, flags: int, caller: Caller) -> int:
        """Loads an image (`Kexec.file_load`)."""
        self._kexec.file_load(arguments, flags, caller)
        return 0

    def kexec_load(self, segments: Sequence[KexecSegment], flags: int, caller: Caller, *, narrow: bool = False) -> int:
        """Loads segments (`Kexec.load`); no segments: unloads. `narrow`: the caller is a 32-bit program.

        Reading an item of `segments` may raise Errno(EFAULT).
        """
        self._kexec.load(segments, flags, caller, narrow=narrow)
        return 0

    def reboot(
        self, magic1: int, magic2: int, command: int, argument: int, caller: Caller
    ) -> int | Blocked | Jump | Ending:
        """Executes reboot(2).

        Raises Errno: EPERM, EINVAL for the magic numbers, the command, or without an image, EFAULT for `argument`, and
        the errno of a failed freeze. Nothing is lost then. `Delayed`: the shutdown of a device waits. After `Jump`
        every ioctl is `Blocked` and `release` changes nothing, so processes may die in any order.
        """
        permit_reboot(magic1, magic2, caller)
        if self._ending:
            return Blocked()
        asked = reboot_command(command, argument, caller)
        if isinstance(asked, Ending):
            return self._shut_down(asked)
        if asked != LINUX_REBOOT_CMD_KEXEC:
            return 0
        if self._kexec.image is None:
            raise Errno(errno.EINVAL)
        if self._luo is not None:
            self._luo.freeze()
        self._kexec.jumping = True
        return self._shut_down(Jump())

    def _shut_down(self, end: Jump | Ending) -> Jump | Ending | Delayed:
        """Shuts the devices down for `end`. No other reboot(2) is answered from here on."""
        self._ending = True

        def after(shut: int | None) -> Jump | Ending | None:
            if shut is not None and isinstance(end, Jump):
                self._machine.host.log("kexec_core: Starting new kernel")
            return None if shut is None else end

        shut = 0 if self._vfio is None else self._vfio.shutdown()
        if isinstance(shut, Waiting):
            waiting = shut
            return Delayed(waiting.until, lambda: after(waiting.poll()))
        after(0)
        return end

    def jump(self) -> Self:
        """Returns the next boot, after `reboot` returned `Jump`. This kernel is closed afterwards.

        Raises `Panic` if the next one stops while it boots; nothing is held then.
        """
        loaded = self._kexec.image
        assert self._kexec.jumping, "reboot() said Jump"
        assert loaded is not None, "reboot() found an image"
        handover = Handover()
        if self._luo is not None:
            if loaded.handover:
                handover = Handover(self._number + 1, self._luo.carry())
            self._luo.close()
        if self._vfio is not None:
            self._vfio.close()
        command_line = loaded.command_line
        if command_line is None:
            command_line = self._command_line
        following = type(self).__new__(type(self))
        following._boot_into(self._machine, self._boot + 1, command_line, loaded.formats, handover)
        return following

    def close(self) -> None:
        """Switches the machine off: drops every reference to files of the host. Idempotent."""
        if self._luo is not None:
            self._luo.close()
        if self._vfio is not None:
            self._vfio.close()
