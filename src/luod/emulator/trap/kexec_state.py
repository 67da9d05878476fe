"""The files that show the state of kexec: /sys/kernel/kexec_loaded, and three settings in /proc/sys/kernel.

They are plain files, so the model sees what was written to them only at the next load. What the kernel would have
refused to write is ignored, and the file shows the value again afterwards.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Final

from luod.emulator.model.kernel import Kernel
from luod.emulator.model.ports import Errno
from luod.linux import Fd
from luod.uapi import kexec as uapi

LOADED: Final = "kexec_loaded"
SYSCTLS: Final[Mapping[str, int]] = {
    uapi.SYSCTL_LOAD_DISABLED: 0,
    uapi.SYSCTL_LOAD_LIMIT_PANIC: -1,
    uapi.SYSCTL_LOAD_LIMIT_REBOOT: -1,
}
"""Settings of /proc/sys/kernel that restrict the host's kernel, and not the emulated one, with their first values."""
NAMES: Final = (LOADED, *SYSCTLS)
DIRECTORY: Final = "/run/luoemu"
"""Where they are in the machine."""
_LONGEST: Final = 32


class KexecState:
    """Borrows the open files, by `NAMES`."""

    def __init__(self, kernel: Kernel, files: Mapping[str, Fd], tell: Callable[[str], None]) -> None:
        """`tell` gets a line for the user when a file cannot be written."""
        self._kernel = kernel
        self._files = files
        self._tell = tell

    def read(self) -> None:
        """Sets the model's values to what was written to the files, before a load."""
        for name, value in self._kernel.kexec_sysctls.values.items():
            text = os.pread(self._files[name].fileno(), _LONGEST, 0)
            with contextlib.suppress(ValueError, Errno):
                if (written := int(text)) != value:
                    self._kernel.kexec_sysctls.write(name, written)

    def show(self) -> None:
        """Writes the model's values to the files, after a load.

        A program that emptied a file, and filled the file system, loses what the file shows, and nothing else.
        """
        for name, value in {LOADED: int(self._kernel.kexec_loaded), **self._kernel.kexec_sysctls.values}.items():
            text = f"{value}\n".encode()
            try:
                os.pwrite(self._files[name].fileno(), text, 0)
                os.ftruncate(self._files[name].fileno(), len(text))
            except OSError as error:
                self._tell(f"{DIRECTORY}/{name} cannot be written, and does not show {value}: {error.strerror}")
