"""The signals that end a machine, read from an fd. Python 3.11 has no signalfd of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from luod.linux import Fd

_SI_KERNEL: Final = 0x80
_SIGINFO_SIZE: Final = 128
_SIGINFO: Final = struct.Struct("=Iii")


@dataclass(frozen=True)
class Received:
    number: int
    from_terminal: bool
    """Sent by the kernel, as ^C does, to the whole foreground process group."""


class SignalFd:
    """Blocks the signals for this process and receives them instead. Closing unblocks them again."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        chosen = frozenset(numbers)
        mask = sum(1 << (number - 1) for number in chosen)
        self.previous_mask = frozenset(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, chosen))
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.signalfd(-1, mask.to_bytes(_SIGINFO_SIZE, "little"), os.O_CLOEXEC | os.O_NONBLOCK)
        if fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"signalfd: {os.strerror(code)}")
        self._fd = Fd(fd)

    def fileno(self) -> int:
        return self._fd.fileno()

    def received(self) -> list[Received]:
        """Returns the signals received since the last call. Does not wait."""
        found: list[Received] = []
        while True:
            try:
                info = os.read(self._fd.fileno(), _SIGINFO_SIZE)
            except BlockingIOError:
                return found
            number, _, code = _SIGINFO.unpack_from(info)
            found.append(Received(number, code == _SI_KERNEL))

    def close(self) -> None:
        self._fd.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, self.previous_mask)
