"""The questions about /dev/liveupdate and sessions: each verb is one ioctl, with any size, tail and argument memory.

One half of `questions`, inside a machine; standard library and luod.uapi only.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from luod.uapi import liveupdate as api
from tests.programs.argument import Argument, ioctl

Slot = str | int
"""The name of an fd, or its number."""


class SessionCalls:
    """The fds of one process by slot, and what can be asked of them as device and session fds."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}

    def fd(self, slot: Slot) -> int:
        return slot if isinstance(slot, int) else self.slots[slot]

    def put(self, slot: str, fd: int) -> int:
        if slot in self.slots:
            os.close(fd)
            raise ValueError(f"slot {slot} is taken")
        self.slots[slot] = fd
        return fd

    def do_create(self, device: Slot, name: str, slot: str, **how: Any) -> int:
        return self._named_session(api.LIVEUPDATE_IOCTL_CREATE_SESSION, device, name, slot, how)

    def do_retrieve(self, device: Slot, name: str, slot: str, **how: Any) -> int:
        return self._named_session(api.LIVEUPDATE_IOCTL_RETRIEVE_SESSION, device, name, slot, how)

    def _named_session(self, command: int, device: Slot, name: str, slot: str, how: dict[str, Any]) -> int:
        data = api.CREATE_SESSION.pack(api.CREATE_SESSION.size, how.pop("input_fd", -1), name.encode("latin-1"))
        return self.put(slot, api.CREATE_SESSION.unpack_from(self._call(device, command, data, **how))[1])

    def do_preserve(self, session: Slot, fd: Slot, token: int, **how: Any) -> None:
        data = api.SESSION_PRESERVE_FD.pack(api.SESSION_PRESERVE_FD.size, self.fd(fd), token)
        self._call(session, api.LIVEUPDATE_SESSION_PRESERVE_FD, data, **how)

    def do_unpreserve(self, session: Slot, token: int, reserved: int = 0, **how: Any) -> None:
        data = api.SESSION_UNPRESERVE_FD.pack(api.SESSION_UNPRESERVE_FD.size, reserved, token)
        self._call(session, api.LIVEUPDATE_SESSION_UNPRESERVE_FD, data, **how)

    def do_retrieve_fd(self, session: Slot, token: int, slot: str, **how: Any) -> int:
        data = api.SESSION_RETRIEVE_FD.pack(api.SESSION_RETRIEVE_FD.size, how.pop("input_fd", -1), token)
        answer = self._call(session, api.LIVEUPDATE_SESSION_RETRIEVE_FD, data, **how)
        return self.put(slot, api.SESSION_RETRIEVE_FD.unpack_from(answer)[1])

    def do_finish(self, session: Slot, reserved: int = 0, **how: Any) -> None:
        data = api.SESSION_FINISH.pack(api.SESSION_FINISH.size, reserved)
        self._call(session, api.LIVEUPDATE_SESSION_FINISH, data, **how)

    def do_get_name(self, session: Slot, reserved: int = 0, fill: str = "\0", **how: Any) -> str:
        field = fill.encode("latin-1") * api.LIVEUPDATE_SESSION_NAME_LENGTH
        data = api.SESSION_GET_NAME.pack(api.SESSION_GET_NAME.size, reserved, field)
        answer = self._call(session, api.LIVEUPDATE_SESSION_GET_NAME, data, **how)
        name: bytes = api.SESSION_GET_NAME.unpack_from(answer)[2]
        return name.decode("latin-1")

    def _call(
        self,
        fd: Slot,
        command: int,
        data: bytes,
        *,
        size: int | None = None,
        tail: str = "",
        memory: str = "writable",
        mapped: int | None = None,
    ) -> bytes:
        """Makes the ioctl.

        `size` replaces the size field; the argument is cut or zero-filled to it, and `tail` follows.
        """
        if size is not None:
            data = size.to_bytes(4, sys.byteorder) + data[4:]
            if size < 1 << 20:
                data = data[: max(size, 4)].ljust(max(size, 4) - len(tail), b"\0")
        return self._ioctl(self.fd(fd), command, data + tail.encode("latin-1"), memory, mapped)[1]

    def _ioctl(self, fd: int, command: int, data: bytes, memory: str, mapped: int | None) -> tuple[int, bytes]:
        if memory == "null":
            return ioctl(fd, command, 0), b""
        with Argument(data, writable=memory == "writable", mapped=mapped) as argument:
            return ioctl(fd, command, argument.pointer), argument.bytes()

    def do_ioctl(
        self, fd: Slot, command: int, data: str = "", memory: str = "writable", mapped: int | None = None
    ) -> list[Any]:
        """Makes any ioctl with any argument, and returns the result and the contents of the memory."""
        result, after = self._ioctl(self.fd(fd), command, data.encode("latin-1"), memory, mapped)
        return [result, after.decode("latin-1")]
