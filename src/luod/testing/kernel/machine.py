"""The real kernel as a `Machine`: QEMU with an initramfs that runs the agent, driven over a socket pair.

The socket is QEMU's end of a serial port, so it outlives the kexec. `kernel/build` builds a kernel. The fixtures of
`luod.testing.plugin` and `python -m luod.testing.kernel` make one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from luod.testing.channel import Channel
from luod.testing.interpreter import needed_interpreter
from luod.testing.kernel import qemu
from luod.testing.kernel.child import Child
from luod.testing.kernel.initramfs import PORT, Share, initramfs
from luod.testing.machine import Machine, describe
from luod.testing.preload import current
from luod.testing.scratch import Scratch

TIMEOUT: Final = 120.0
"""Default time limit of a request in seconds. Emulated processors are slow, and slower when the host is busy."""
_DISK_ROOT: Final = " root=/dev/vda rw systemd.getty_auto=no systemd.show_status=no"
LOG_TAIL: Final = 6000
"""Bytes of the serial log in a failure's text."""


class KernelMachine(Machine):
    """A Linux in QEMU with the agent as its init. It has booted when the constructor returns.

    `kernel` and `initrd` are the paths, in the machine as on the host, of its present image and initramfs. With both
    loaded, the next boot has an agent again. The serial log is `folder`/serial.log.
    """

    def __init__(
        self,
        *,
        kernel: str | os.PathLike[str] | None = None,
        folder: str | os.PathLike[str] | None = None,
        writable: Sequence[str | os.PathLike[str]] = (),
        command_line: str = "",
        memory: str = "1G",
        processors: int = 2,
        disk: str | os.PathLike[str] | None = None,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Boots `kernel`, by default the one of `luod.testing.kernel.qemu.kernel_image`.

        `folder` (it exists) gets logs and initramfs and is not removed. Without one they are temporary, and kept only
        when a `with` of the machine ends in an exception. `close` waits for QEMU to end by itself only if they are
        temporary and not kept: otherwise it kills QEMU at once. `writable` are host directories to which the machine
        writes, at the same paths. `command_line` is added to the kernel's, `arguments` to QEMU's, `env` to init's
        environment.
        The `processors` run in turns, in one thread of the host. `timeout` is the time limit of a request in seconds.
        `disk` is an image of a root file system with an init of its own, such as systemd, that runs the agent as a
        service, and with the kernel as /boot/vmlinuz; `env` and `writable` are without effect then. Raises
        MachineUnavailable: QEMU, busybox, the image or a Python are missing. Raises MachineEnded: it did not boot.
        """
        image = os.fspath(kernel) if kernel is not None else qemu.kernel_image()
        program = qemu.program()
        shares = [Share(f"share{number}", os.path.abspath(path)) for number, path in enumerate(writable)]
        ram_disk = _ram_disk(shares, env) if disk is None else None
        command_line = f"{qemu.COMMAND_LINE}{'' if disk is None else _DISK_ROOT} {command_line}".strip()
        self._scratch: Scratch | None = None
        """The folder, while it is to be removed."""
        if folder is None:
            self._scratch = Scratch("luod-kernel-")
            folder = self._scratch.path
        self.folder = Path(folder).resolve()
        """Where serial.log, qemu.log and the initramfs are, on the host."""
        ours, theirs = socket.socketpair()
        try:
            with theirs, open(self.folder / "qemu.log", "wb") as log:
                if ram_disk is not None:
                    (self.folder / "initramfs").write_bytes(ram_disk)
                command = qemu.command(
                    program,
                    kernel=image,
                    initrd=None if ram_disk is None else str(self.folder / "initramfs"),
                    command_line=command_line,
                    memory=memory,
                    processors=processors,
                    serial_log=str(self.folder / "serial.log"),
                    agent_fd=theirs.fileno(),
                    shares=shares,
                    disk=None if disk is None else os.path.abspath(disk),
                    arguments=arguments,
                )
                self._child = Child(
                    subprocess.Popen(
                        command,
                        cwd="/",
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        # A process group of its own: an interrupt at the terminal is for the test, which then ends it.
                        start_new_session=True,
                    )
                )
        except BaseException:
            ours.close()
            self._clean_up()
            raise
        self.pid = self._child.pid
        """QEMU's process id, on the host."""
        super().__init__(Channel(ours), timeout=timeout)
        self._own_files = (
            image if disk is None else "/boot/vmlinuz",
            None if ram_disk is None else str(self.folder / "initramfs"),
        )
        try:
            self._boot_up()
        except BaseException:
            self._keep_log()
            self._conversation.close()
            self._shut_down(0.0)
            raise

    def log(self) -> str:
        """Returns the end of the serial log, and QEMU's own output."""
        text = ""
        for name in ("qemu.log", "serial.log"):
            with contextlib.suppress(FileNotFoundError):
                text += (self.folder / name).read_bytes()[-LOG_TAIL:].decode("utf-8", "replace")
        return f"{text.rstrip()}\n({self.folder}/serial.log)" if text else ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._keep_log()
        super().__exit__(kind, error, trace)

    def _booted(self, hello: Mapping[str, Any]) -> None:
        self._kernel, self._initrd = self._own_files

    def _why_ended(self) -> str:
        # Its end of the socket is closed: it has ended or is ending.
        if self._child.ends_within(self._conversation.timeout):
            return f"QEMU ended with {describe(self._child.wait())}"
        return "QEMU closed its end of the channel and runs on"

    def _shut_down(self, patience: float) -> None:
        try:
            # With a folder of the caller, or after a failure, it is killed at once: it holds no data that are needed.
            if self._scratch is not None and not self._child.ends_within(patience):
                raise self._did_not_end("QEMU", patience)
        finally:
            try:
                self._child.close()
            finally:
                self._clean_up()

    def _clean_up(self) -> None:
        if self._scratch is not None:
            self._scratch.remove()

    def _keep_log(self) -> None:
        if self._scratch is not None:
            self._scratch.keep()
            self._scratch = None


def _ram_disk(shares: Sequence[Share], env: Mapping[str, str] | None) -> bytes:
    """Returns an initramfs that runs the agent on the host's files. Raises MachineUnavailable."""
    python = needed_interpreter()
    preloaded = ("--preload", *current().words())
    agent = python.module("luod.testing.agent", "--channel", PORT, "--power-off", "--forks", *preloaded)
    return initramfs(agent, environment=_environment(python.environment, env), shares=shares)


def _environment(*additions: Mapping[str, str] | None) -> dict[str, str]:
    """Returns init's environment. It is not the host's, which describes the host."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"}
    for addition in additions:
        environment.update(addition or {})
    return environment
