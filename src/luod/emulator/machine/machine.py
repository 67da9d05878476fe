"""One emulated machine: boots its init, and follows it over kexecs until it ends.

It runs in the `luoemu` process, outside of the machine's namespaces. `running` has one boot, `hardware` what the boots
share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from luod.emulator.machine import boot, stub
from luod.emulator.machine.faults import MachineError, own_faults_told
from luod.emulator.machine.hardware import DeviceSettings, Hardware
from luod.emulator.machine.nodes import KERNEL_IMAGE, KERNEL_IMAGE_NO_VFIO
from luod.emulator.machine.running import RunningBoot
from luod.emulator.machine.signals import SignalFd
from luod.emulator.model import kvm
from luod.emulator.model.kernel import Kernel
from luod.emulator.model.profile import Features, KvmRules, Profile
from luod.emulator.model.results import Panic
from luod.emulator.trap.process.memory_files import HostMemory

FAILED: Final = 125
"""Exit status when the machine itself fails. Init's own statuses are passed through."""


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
        hardware = None if self._settings.devices is None else Hardware(self._settings.devices, self._log)
        host, bus = (hardware.memory, hardware.bus) if hardware else (HostMemory(self._log), None)
        kernel = Kernel(host, features=self._settings.features, bus=bus)
        try:
            while True:
                with RunningBoot(self._order(kernel, signals), kernel, hardware, signals, self._tell) as running:
                    end = running.run()
                if end is None:
                    end = running.interrupted
                if end is not None:
                    return end
                try:
                    with own_faults_told():
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


def _say(line: str) -> None:
    """Writes a line to standard error. That its reader is gone does not end the machine."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), os.fsencode(f"luoemu: {line}\n"))


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
