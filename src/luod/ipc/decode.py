"""Decodes JSON values from luod into the types of `luod.ipc.types`.

It is strict in types, and lenient for a newer luod: a member that the type does not have is ignored, and a word that a
Literal does not list is kept. A member that is null or absent is None, or the default. It uses the standard library
only: the library requires that, and luoctl starts faster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from functools import cache
from types import NoneType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from luod.errors import ProtocolError

T = TypeVar("T")


def decode(kind: type[T], given: object, what: str = "") -> T:
    """Returns `given`, the member `what` of luod's answer or all of it, as a `kind`.

    Raises ProtocolError, which names a member that does not fit.
    """
    found: T = _reader(cast(Hashable, kind))(given, what)
    return found


@cache
def _reader(kind: Any) -> Callable[[object, str], Any]:
    if dataclasses.is_dataclass(kind):
        return _object(kind)
    arguments = get_args(kind)
    if get_origin(kind) is list:
        return _list(_reader(arguments[0]))
    if get_origin(kind) is Literal:
        return _exactly(str)
    if arguments:
        assert arguments[1] is NoneType, kind
        inner = _reader(arguments[0])
        return lambda given, what: None if given is None else inner(given, what)
    return _exactly(float, int) if kind is float else _exactly(kind)


def _exactly(*kinds: type) -> Callable[[object, str], object]:
    def read(given: object, what: str) -> object:
        if type(given) not in kinds:
            raise _misfit(kinds[0].__name__, what)
        return given

    return read


def _list(element: Callable[[object, str], object]) -> Callable[[object, str], list[object]]:
    def read(given: object, what: str) -> list[object]:
        if not isinstance(given, list):
            raise _misfit("list", what)
        return [element(each, f"{what}[{number}]") for number, each in enumerate(given)]

    return read


def _object(kind: Any) -> Callable[[object, str], object]:
    members = [(each.name, _reader(cast(Hashable, each.type)), _has_default(each)) for each in dataclasses.fields(kind)]

    def read(given: object, what: str) -> object:
        if not isinstance(given, dict):
            raise _misfit("object", what)
        return kind(
            **{
                name: member(given.get(name), f"{what}.{name}" if what else name)
                for name, member, has_default in members
                if given.get(name) is not None or not has_default
            }
        )

    return read


def _has_default(member: dataclasses.Field[Any]) -> bool:
    return not (member.default is dataclasses.MISSING and member.default_factory is dataclasses.MISSING)


def _misfit(wanted: str, what: str) -> ProtocolError:
    return ProtocolError(f"luod's answer has no {wanted} `{what}`" if what else f"luod's answer is not a {wanted}")
