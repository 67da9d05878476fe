"""Writes the `.varlink` files beside this module from the types: `python3 -m luod.ipc.interfaces.idl`.

A test compares them. At run time luod answers introspection with these files, and does not use this module.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Any

from luod.errors import KernelRefused
from luod.frozen import member_types, members
from luod.ipc import errors
from luod.ipc.errors import SHARED, WireError
from luod.ipc.interfaces.admin import Admin
from luod.ipc.interfaces.qemu import Qemu
from luod.ipc.interfaces.sessions import Sessions
from luod.ipc.interfaces.updates import Updates
from luod.ipc.server.methods import Interface, Last, Method
from luod.ipc.server.received import Received
from luod.linux import Fd
from luod.static import Words

_NAMES = {str: "string", int: "int", bool: "bool", float: "float", Received: "int", Fd: "int"}


def files() -> dict[str, str]:
    """Returns the contents of each file, by file name."""
    return {f"{interface.name}.varlink": description(interface) for interface in (Sessions, Updates, Admin, Qemu)}


def description(interface: type[Interface]) -> str:
    """Returns an interface in Varlink's language. The documentation strings are its comments."""
    methods = [found for name in sorted(vars(interface)) if (found := interface.method(name)) is not None]
    types: dict[str, str] = {}
    for method in methods:
        _collect(types, *method.parameters.values(), *_reply(method).values())
    parts = [f"{_comment(interface)}interface {interface.name}\n"]
    parts += ["".join(f"type {name} {text}\n" for name, text in types.items())] if types else []
    for method in methods:
        name = method.function.__name__
        parts.append(
            f"{_comment(method.function)}method {name}{_object(method.parameters)} -> {_object(_reply(method))}\n"
        )
    for name, parameters, comment in declared(interface.name):
        parts.append(f"{comment}error {name} {_object(parameters)}\n")
    return "\n".join(parts)


def declared(interface: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yields the errors that an interface declares: name, parameters, comment."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, WireError) and interface in kind.interfaces:
            hints = typing.get_type_hints(kind.__init__)
            del hints["return"]
            yield kind.name.rpartition(".")[2], hints, _comment(kind, brief=True)
    for shared, interfaces in SHARED.items():
        if interface in interfaces:
            kernels = {"call": str, "errno": int, "meaning": str} if shared is KernelRefused else {}
            yield shared.__name__, {**kernels, "message": str, "hint": str}, _comment(shared, brief=True)


def _reply(method: Method) -> dict[str, Any]:
    """Returns the types of the parameters of one reply."""
    returned = method.returned.__args__[0] if method.more else method.returned
    if isinstance(returned, UnionType):
        kinds = [kind for kind in returned.__args__ if kind is not Last]
        returned = kinds[0] if len(kinds) == 1 else returned
    if method.reply:
        return {method.reply: returned}
    return {} if returned is None else member_types(returned)


def _name(kind: Any) -> str:
    if isinstance(kind, GenericAlias):
        return ("[string]" if kind.__origin__ is dict else "[]") + _name(_inner(kind))
    if isinstance(kind, UnionType):
        return f"?{_name(_inner(kind))}"
    if issubclass(kind, Words):
        return f"({', '.join(kind.words)})"
    return _NAMES.get(kind) or kind.__name__


def _inner(kind: Any) -> Any:
    """Returns the type of an element, or that of a value that may be None."""
    if isinstance(kind, GenericAlias):
        return kind.__args__[1 if kind.__origin__ is dict else 0]
    (inner,) = (each for each in kind.__args__ if each is not NoneType)
    return inner


def _object(types: dict[str, Any]) -> str:
    return f"({', '.join(f'{name}: {_name(kind)}' for name, kind in types.items())})"


def _collect(found: dict[str, str], *kinds: Any) -> None:
    """Adds the frozen classes among the types, after those of their members."""
    for kind in kinds:
        if isinstance(kind, GenericAlias | UnionType):
            _collect(found, _inner(kind))
        elif members(kind):
            types = member_types(kind)
            _collect(found, *types.values())
            found[kind.__name__] = _object(types)


def _comment(described: Any, *, brief: bool = False) -> str:
    text = inspect.getdoc(described) or ""
    text = text.partition("\n\n")[0] if brief else text
    return "".join(f"# {line}\n" for line in text.splitlines())


def main() -> None:
    for name, text in files().items():
        (Path(__file__).parent / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
