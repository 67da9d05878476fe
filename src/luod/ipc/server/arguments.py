"""The parameters of a call as Python values: asyncvarlink's conversion, with a faster one for lists.

The library enters a context manager for each element of a list, which takes 15 ms for a message of 64 KiB, while no
other client is served. Functions that are made once for each type convert a list of values without fds. They accept the
same values as the library, except booleans for numbers. The library converts everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from asyncvarlink import FileDescriptorArray, VarlinkMethodSignature
from asyncvarlink.conversion import (
    ConversionError,
    DataclassVarlinkType,
    FileDescriptorVarlinkType,
    ListVarlinkType,
    OptionalVarlinkType,
    SimpleVarlinkType,
    VarlinkType,
)

Convert = Callable[[Any], Any]


def arguments(
    signature: VarlinkMethodSignature, parameters: Mapping[str, Any], fds: FileDescriptorArray | None
) -> dict[str, Any]:
    """Returns `parameters` as the arguments of a method. Raises ConversionError, which names the wrong parameter."""
    lists = _lists(signature.parameter_type)
    long = {name: value for name, value in parameters.items() if name in lists and isinstance(value, list)}
    short: dict[str, Any] = {name: [] if name in long else value for name, value in parameters.items()}
    converted: dict[str, Any] = signature.parameter_type.fromjson(short, {FileDescriptorVarlinkType: fds})
    for name, value in long.items():
        with ConversionError.context(name):
            converted[name] = lists[name](value)
    return converted


@lru_cache(maxsize=256)
def _lists(parameters: VarlinkType) -> dict[str, Convert]:
    """Returns the parameters of a method that are lists without fds, and the conversion of each."""
    found = {}
    for name, kind in zip(parameters.as_type.__annotations__, parameters.subtypes(), strict=True):
        (inner,) = kind.subtypes() if isinstance(kind, OptionalVarlinkType) else (kind,)
        if isinstance(inner, ListVarlinkType) and not inner.contains_fds:
            found[name] = _converter(inner)
    return found


def _converter(kind: VarlinkType) -> Convert:
    if isinstance(kind, ListVarlinkType):
        (element,) = kind.subtypes()
        return _of_list(_converter(element))
    if isinstance(kind, OptionalVarlinkType):
        (inner,) = kind.subtypes()
        return _of_optional(_converter(inner))
    if isinstance(kind, DataclassVarlinkType):
        return _of_dataclass(kind)
    if isinstance(kind, SimpleVarlinkType):
        return _of_simple(kind)
    return kind.fromjson


def _of_list(element: Convert) -> Convert:
    def convert(value: Any) -> Any:
        if type(value) is not list:
            raise ConversionError.expected("list", value)
        return [element(each) for each in value]

    return convert


def _of_optional(inner: Convert) -> Convert:
    return lambda value: None if value is None else inner(value)


def _of_simple(kind: SimpleVarlinkType) -> Convert:
    wanted = kind.as_type

    def convert(value: Any) -> Any:
        if type(value) is wanted:
            return value
        if type(value) is bool:
            raise ConversionError.expected(kind.as_varlink, value)
        return kind.fromjson(value)

    return convert


def _of_dataclass(kind: DataclassVarlinkType) -> Convert:
    made = kind.as_type
    fields = [
        (field, _converter(inner), isinstance(inner, OptionalVarlinkType))
        for field, inner in zip(made.__dataclass_fields__, kind.subtypes(), strict=True)
    ]
    known = made.__dataclass_fields__.keys()

    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise ConversionError.expected("map", value)
        if not value.keys() <= known:
            raise ConversionError("it has members that are not in its type")
        values = []
        for name, inner, optional in fields:
            if name not in value and not optional:
                raise ConversionError(f"missing object key {name}")
            values.append(inner(value.get(name)))
        return made(*values)

    return convert
