"""Immutable value classes that cost little to define: `@frozen` in place of `@dataclass(frozen=True)`.

dataclasses compiles source text for each class, which takes 60 times as long as `frozen`. luod defines about a hundred
such classes while guests are paused (docs/performance.md). `frozen` compiles nothing and imports nothing. It supports
what luod uses: annotated members in order, inherited ones first, defaults, positional and keyword arguments,
`__post_init__`, equality, hash, repr and pattern matching. It has no default factories: immutable defaults need none.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")

    @dataclass_transform(frozen_default=True)
    def frozen(made: type[T]) -> type[T]: ...

else:

    def frozen(made):
        """Makes the annotated members of a class its constructor's parameters, and its objects immutable."""
        own = made.__annotations__
        made._members = members = (*(name for name in getattr(made, "_members", ()) if name not in own), *own)
        made._defaults = defaults = {name: getattr(made, name) for name in members if hasattr(made, name)}
        made.__match_args__ = members
        made.__init__ = _constructor(made, members, defaults)
        made.__setattr__, made.__delattr__ = _refuse, _refuse
        if "__eq__" not in made.__dict__:
            made.__eq__ = _equal
            made.__hash__ = made.__dict__.get("__hash__") or _hash
        if "__repr__" not in made.__dict__:
            made.__repr__ = _represent
        return made


def members(kind: type) -> tuple[str, ...]:
    """Returns the names of the members of a frozen class, in the order of its parameters; none for another class."""
    found: tuple[str, ...] = kind.__dict__.get("_members", ())
    return found


def has_default(kind: type, member: str) -> bool:
    """Returns whether the constructor of a frozen class can be called without `member`."""
    return member in kind.__dict__.get("_defaults", ())


def member_types(kind: type) -> dict[str, Any]:
    """Returns the annotation of each member of a frozen class: the text, where its module postpones them (PEP 563)."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        found |= base.__annotations__ if members(base) else {}
    return {name: found[name] for name in members(kind)}


def replace(value: T, **changes: object) -> T:
    """Returns a copy of a frozen object with other members. Raises TypeError for a member that it does not have."""
    return type(value)(**(vars(value) | changes))


def _constructor(made: type, members: tuple[str, ...], defaults: dict[str, object]) -> Callable[..., None]:
    count, known, name = len(members), frozenset(members), made.__qualname__
    after = getattr(made, "__post_init__", None)

    def construct(self: object, *arguments: object, **named: object) -> None:
        given = self.__dict__
        if len(arguments) == count:
            given.update(zip(members, arguments))  # noqa: B905 - they are as many, and the check would cost a fifth
        else:
            if len(arguments) > count:
                raise TypeError(f"{name}() takes {count} arguments, not {len(arguments)}")
            # In the order of the members, as repr and JSON show them.
            given.update(zip(members, arguments))  # noqa: B905 - the other members are named, or have defaults
            for member in members[len(arguments) :]:
                if member in named:
                    given[member] = named.pop(member)
                elif member in defaults:
                    given[member] = defaults[member]
                else:
                    raise TypeError(f"{name}() needs the argument {member!r}")
        if named:
            twice = known.intersection(named)
            raise TypeError(f"{name}() takes {'one' if twice else 'no'} {next(iter(named))!r}")
        if after is not None:
            after(self)

    return construct


def _refuse(self: object, name: str, *_value: object) -> None:
    raise AttributeError(f"{type(self).__qualname__}.{name} cannot be changed")


def _equal(self: object, other: object) -> bool:
    return vars(self) == vars(other) if type(other) is type(self) else NotImplemented


def _hash(self: object) -> int:
    return hash(tuple(self.__dict__.values()))


def _represent(self: object) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"
