"""The errors that an interface declares, as asyncvarlink describes them to clients that ask."""

from __future__ import annotations

import inspect
import typing
from types import new_class

from asyncvarlink import TypedVarlinkErrorReply

from luod.errors import KernelRefused, LuodError
from luod.ipc import errors
from luod.ipc.errors import SHARED, WireError

_TEXTS = {"message": str, "hint": str}


def declared(interface: str) -> tuple[type[TypedVarlinkErrorReply], ...]:
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
