"""Types, errors and fds of luod, as asyncvarlink takes and describes them."""

from __future__ import annotations

import fcntl
import inspect
import typing
from dataclasses import fields
from types import new_class

from asyncvarlink import AnnotatedResult, FileDescriptor, TypedVarlinkErrorReply
from asyncvarlink.serviceinterface import InvalidParameter

from luod.errors import KernelRefused, LuodError
from luod.ipc import errors
from luod.ipc.errors import SHARED, WireError
from luod.linux import Fd

_TEXTS = {"message": str, "hint": str}


def members(kind: type) -> type:
    """Returns the members of a dataclass as the reply of a method."""
    made: typing.Any = typing.TypedDict  # mypy takes it for a statement only
    return typing.cast(type, made(kind.__name__, {each.name: each.type for each in fields(kind)}))


def answer(reply: object, *, continues: bool = False) -> AnnotatedResult:
    """Returns a dataclass as one reply of a method; `continues`: more replies follow."""
    return AnnotatedResult(vars(reply), continues=continues)


def received(passed: FileDescriptor, parameter: str) -> Fd:
    """Returns a duplicate: asyncvarlink closes what was passed after the call. InvalidParameter: luod does not receive
    files of its kind.
    """
    if not passed:
        raise InvalidParameter(parameter=parameter)
    return Fd(fcntl.fcntl(passed.fileno(), fcntl.F_DUPFD_CLOEXEC, 0))


def declared(interface: str) -> tuple[type[TypedVarlinkErrorReply], ...]:
    """Returns the errors that an interface declares."""
    own = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WireError)]
    found = [
        _described(interface, kind.name.rpartition(".")[2], kind, _parameters(kind))
        for kind in own
        if interface in kind.interfaces
    ]
    for kind, interfaces in SHARED.items():
        if interface in interfaces:
            kernels = {"call": str, "errno": int, "meaning": str} if kind is KernelRefused else {}
            found.append(_described(interface, kind.__name__, kind, kernels | _TEXTS))
    return tuple(found)


def _parameters(kind: type[WireError]) -> dict[str, type]:
    hints = typing.get_type_hints(kind.__init__)
    return {name: hints[name] for name in hints if name != "return"}


def _described(
    interface: str, name: str, kind: type[LuodError], parameters: dict[str, type]
) -> type[TypedVarlinkErrorReply]:
    members = {
        "__doc__": (inspect.getdoc(kind) or "").partition("\n\n")[0],
        "Parameters": type("Parameters", (), {"__annotations__": parameters}),
    }
    return typing.cast(
        type[TypedVarlinkErrorReply],
        new_class(name, (TypedVarlinkErrorReply,), {"interface": interface}, lambda space: space.update(members)),
    )
