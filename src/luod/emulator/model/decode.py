"""Decodes an ioctl's number and argument into a request.

The order of checks is that of kernel/liveupdate/luo_core.c and luo_session.c of Linux 7.3 (docs/kernel.md, 2). This
module knows the sizes and directions of commands. `luo.py` executes the request and answers through it.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from luod.emulator.model.caller import Caller
from luod.emulator.model.ports import PAGE, Errno
from luod.emulator.model.profile import Features
from luod.emulator.model.results import Unfinished
from luod.emulator.model.session import Direction
from luod.uapi import liveupdate as uapi
from luod.uapi import liveupdate_next as posted

_STRETCH = 1 << 18
_ZEROS = bytes(_STRETCH)
_TURN = 4 << 20
"""Bytes of a caller's memory after which others are answered."""


@dataclass(frozen=True)
class Command:
    """One row of a table. `direction` is the kind of session that accepts it; None: both kinds, or the device."""

    number: int
    layout: struct.Struct
    direction: Direction | None = None
    minimum: int | None = None
    """The least number of bytes that a caller must pass; None: the whole structure. Missing bytes are 0."""


def _table(*commands: Command) -> dict[int, Command]:
    return {command.number & 0xFF: command for command in commands}


DEVICE_COMMANDS = _table(
    Command(uapi.LIVEUPDATE_IOCTL_CREATE_SESSION, uapi.CREATE_SESSION),
    Command(uapi.LIVEUPDATE_IOCTL_RETRIEVE_SESSION, uapi.RETRIEVE_SESSION),
)
SESSION_COMMANDS = _table(
    Command(uapi.LIVEUPDATE_SESSION_PRESERVE_FD, uapi.SESSION_PRESERVE_FD, Direction.OUTGOING),
    Command(uapi.LIVEUPDATE_SESSION_RETRIEVE_FD, uapi.SESSION_RETRIEVE_FD, Direction.INCOMING),
    Command(uapi.LIVEUPDATE_SESSION_FINISH, uapi.SESSION_FINISH, Direction.INCOMING),
    Command(uapi.LIVEUPDATE_SESSION_GET_NAME, uapi.SESSION_GET_NAME),
)
_UNPRESERVE = _table(Command(uapi.LIVEUPDATE_SESSION_UNPRESERVE_FD, uapi.SESSION_UNPRESERVE_FD, Direction.OUTGOING))
_FREEZE = _table(Command(posted.LIVEUPDATE_SESSION_FREEZE, posted.SESSION_FREEZE, Direction.OUTGOING))
_ARGUMENTS = _table(
    Command(
        uapi.LIVEUPDATE_SESSION_PRESERVE_FD, posted.SESSION_PRESERVE_FD, Direction.OUTGOING, posted.ARGUMENT_MINIMUM
    ),
    Command(
        uapi.LIVEUPDATE_SESSION_RETRIEVE_FD, posted.SESSION_RETRIEVE_FD, Direction.INCOMING, posted.ARGUMENT_MINIMUM
    ),
)


def session_commands(features: Features) -> dict[int, Command]:
    """Returns the commands of session fds in a kernel with `features`."""
    commands = dict(SESSION_COMMANDS)
    if features.unpreserve:
        commands |= _UNPRESERVE
    if features.freeze:
        commands |= _FREEZE
    if features.arguments:
        commands |= _ARGUMENTS
    return commands


class Request(NamedTuple):
    """One decoded ioctl. `values` are the structure's fields in order, `size` first."""

    number: int
    layout: struct.Struct
    values: tuple[Any, ...]
    address: int
    caller: Caller

    def integer(self, index: int) -> int:
        value: int = self.values[index]
        return value

    def text(self, index: int) -> bytes:
        value: bytes = self.values[index]
        return value

    def answerable(self) -> None:
        """Raises Errno(EFAULT) unless `answer` would succeed. Precedes the install of an fd, which cannot be undone."""
        if not self.caller.writable(self.address, min(self.integer(0), self.layout.size)):
            raise Errno(errno.EFAULT)

    def answer(self, changed: Mapping[int, int | bytes] | None = None) -> None:
        """Copies back as many bytes as the caller passed, with the fields `changed` (by index).

        Raises Errno(EFAULT).
        """
        values = list(self.values)
        if changed is not None:
            for index, value in changed.items():
                values[index] = value
        self.caller.write(self.address, self.layout.pack(*values)[: self.integer(0)])


def decode(
    table: Mapping[int, Command], number: int, argument: int, caller: Caller, direction: Direction | None = None
) -> Request:
    """Returns the request of ioctl `number` with pointer `argument`.

    Raises Errno(EINVAL) for an nr that the fd does not have, a session of the wrong direction, or a structure that is
    too short; EFAULT for memory that cannot be read; ENOTTY where only the nr fits; E2BIG for contents after the known
    structure.
    """
    number &= 0xFFFFFFFF
    command = table.get(number & 0xFF)
    if command is None:
        raise Errno(errno.EINVAL)
    size = int.from_bytes(caller.read(argument, 4), "little")
    if number != command.number:
        raise Errno(errno.ENOTTY)
    if command.direction is not None and command.direction is not direction:
        raise Errno(errno.EINVAL)
    layout = command.layout
    known = layout.size
    if size < (known if command.minimum is None else command.minimum):
        raise Errno(errno.EINVAL)
    if size > known:
        refuse_tail(argument + known, argument + size, caller)
    # Read again, tail first, as copy_struct_from_user does.
    data = caller.read(argument, min(size, known))
    _, *values = layout.unpack(data.ljust(known, b"\0"))
    return Request(number, layout, (size, *values), argument, caller)


def refuse_tail(address: int, end: int, caller: Caller) -> None:
    """Refuses bytes that are not zero after the structure that this kernel knows.

    Raises Errno(E2BIG) for such a byte, Errno(EFAULT) for one that cannot be read. The first such byte decides.
    """

    def check(at: int) -> int:
        stretch = min(end - at, _STRETCH)
        try:
            data = caller.read(at, stretch)
        except Errno:
            # The memory ends within the range. Bytes before that place still count.
            stretch = min(end - at, PAGE - at % PAGE)
            data = caller.read(at, stretch)
        if not _ZEROS.startswith(data):
            raise Errno(errno.E2BIG)
        return at + stretch

    in_turns(address, end, check, caller)


def in_turns(address: int, end: int, step: Callable[[int], int], caller: Caller) -> None:
    """Runs `step` on the caller's memory from `address` to `end`: it gets an address, and returns the next one.

    Raises Unfinished after some MiB, for a range that a program may choose.
    """
    at = caller.progress.pop(address, address)
    pause = at + _TURN
    while at < end:
        if at >= pause:
            caller.progress[address] = at
            raise Unfinished
        at = step(at)
