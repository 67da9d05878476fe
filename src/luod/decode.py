"""Decodes JSON values into typed values by the annotations of `luod.frozen` classes, and encodes these again.

A type is str, int, float, bool, `object` for any value, a `Literal` of words, an enum of words, a frozen class,
`list[X]`, `tuple[X, ...]`, `dict[str, X]`, `X | None`, or a union of frozen classes. Each of these has a member of a
Literal with one word, by which they are told apart. Annotations are read at run time, so a module whose types are
decoded does not use `from __future__ import annotations`. Readers are made when a type is first decoded, and kept.

It imports neither typing nor inspect, and knows no text for users: callers make their own errors of `Misfit`.
"""

from __future__ import annotations

from types import GenericAlias, NoneType, UnionType

from luod.frozen import has_default, member_types, members
from luod.static import TYPE_CHECKING, Any, Final, TypeVar, Words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    T = TypeVar("T")
    Reader = Callable[[Any], Any]

ABSENT: Final = object()
"""The value of a member that is not there."""
_SHOWN: Final = 60
"""Characters of a value in a text."""


class Misfit(Exception):
    """A value that does not fit its type.

    `path` leads to it, such as `outgoing[3].name`; "" is the whole value. `parts` are those of the path: `outgoing`,
    `[3]` and `name`.
    `wanted` is str, int, float, bool, list or dict; None: its object has no such member. `given` is the value, or
    ABSENT. `known` are the words or the members, if it had to be one of these.
    """

    def __init__(self, wanted: type | None, given: object, known: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.path = ""
        self.parts: tuple[str, ...] = ()
        self.wanted = wanted
        self.given = given
        self.known = known

    def inside(self, where: str) -> Misfit:
        """Returns itself, with the member or `[index]` that contains it in its path."""
        self.parts = (where, *self.parts)
        self.path = f"{where}{'' if not self.path or self.path[0] == '[' else '.'}{self.path}"
        return self

    def __str__(self) -> str:
        where, words = self.path or "it", ", ".join(self.known)
        if self.wanted is None:
            return f"{where} is no known member; known: {words}"
        if self.given is ABSENT:
            return f"{where} is missing{words and f'; known: {words}'}"
        if self.known:
            return f"{where} is {self.given!r:.{_SHOWN}}, not one of {words}"
        return f"{where} is {type(self.given).__name__}, not {self.wanted.__name__}"


class Decoder:
    """Decodes values.

    A strict one refuses members and words that a type does not have, and null where a type has no None. Otherwise, for
    values of a newer program, such members are ignored, such words are kept, and null is the same as absence. A member
    that is absent has its default, or None if that is of its type. A float may be written as an integer, no number as a
    boolean.
    """

    def __init__(
        self,
        *,
        strict: bool,
        spelling: Callable[[str], str] = lambda name: name,
        others: Mapping[type, Reader] | None = None,
    ) -> None:
        """`spelling` returns the name of a member as it is written. `others` are readers of further types."""
        self._strict = strict
        self._spelling = spelling
        self._readers: dict[Any, Reader] = dict(others or {})

    def __call__(self, kind: type[T], given: object) -> T:
        """Returns `given` as a `kind`. Raises Misfit."""
        found: T = self.reader(kind)(given)
        return found

    def reader(self, kind: Any) -> Reader:
        """Returns the function that returns a value as a `kind`, or raises Misfit."""
        reader = self._readers.get(kind)
        if reader is None:
            reader = self._readers[kind] = self._made(kind)
        return reader

    def parameters(self, kinds: Mapping[str, Any], defaults: Mapping[str, object]) -> Callable[[Any], dict[str, Any]]:
        """Returns the function that returns an object with members of these types as a dict, or raises Misfit."""
        rows = [
            (self._spelling(name), name, self.reader(kind), defaults.get(name, None if _optional(kind) else ABSENT))
            for name, kind in kinds.items()
        ]
        spelled = tuple(row[0] for row in rows)
        known = frozenset(spelled)
        strict = self._strict

        def read(given: Any) -> dict[str, Any]:
            if type(given) is not dict:
                raise Misfit(dict, given)
            found = {}
            for written, name, member, default in rows:
                value = given.get(written, ABSENT)
                if default is not ABSENT and (value is ABSENT or (value is None and not strict)):
                    found[name] = default
                    continue
                try:
                    found[name] = member(value)
                except Misfit as misfit:
                    raise misfit.inside(written) from None
            if strict and not given.keys() <= known:
                unknown = next(name for name in given if name not in known)
                raise Misfit(None, given[unknown], spelled).inside(unknown)
            return found

        return read

    def _made(self, kind: Any) -> Reader:
        if isinstance(kind, GenericAlias):
            inner = self.reader(kind.__args__[-1 if kind.__origin__ is dict else 0])
            return _dict(inner) if kind.__origin__ is dict else _list(inner, kind.__origin__)
        if isinstance(kind, UnionType):
            kinds = [each for each in kind.__args__ if each is not NoneType]
            reader = self.reader(kinds[0]) if len(kinds) == 1 else self._tagged(kinds)
            return (
                reader if len(kinds) == len(kind.__args__) else lambda given: None if given is None else reader(given)
            )
        assert isinstance(kind, type), f"{kind!r}: does its module postpone annotations?"
        if members(kind):
            types = member_types(kind)
            read = self.parameters(types, {name: getattr(kind, name) for name in types if has_default(kind, name)})
            return lambda given: kind(*read(given).values())
        if issubclass(kind, Words):
            return _words({word: word for word in kind.words}) if self._strict else _exactly(str)
        if hasattr(kind, "__members__"):  # an enum
            return _words({each.value: each for each in kind.__members__.values()})
        if kind is float:
            return _float
        return _exactly(kind) if kind is not object else lambda given: given

    def _tagged(self, kinds: list[Any]) -> Reader:
        """Returns the reader of a union of frozen classes."""
        readers = {}
        for kind in kinds:
            ((tag, word),) = _tags(kind).items()
            readers[word] = self.reader(kind)
        written, words = self._spelling(tag), tuple(readers)

        def read(given: Any) -> Any:
            if type(given) is not dict:
                raise Misfit(dict, given)
            word = given.get(written, ABSENT)
            if type(word) is not str or word not in readers:
                raise Misfit(str, word, words).inside(written)
            return readers[word](given)

        return read


def encode(value: Any) -> dict[str, Any]:
    """Returns the members of a frozen object, for JSON.

    A member that is a frozen object itself is returned as it is: use this as the `default` of `json.dumps`. Raises
    TypeError for another object.
    """
    names = members(type(value))
    if not names:
        raise TypeError(f"{value!r} cannot be written as JSON")
    given = vars(value)
    return {name: given[name] for name in names}


def encode_shortly(value: Any) -> dict[str, Any]:
    """Does what `encode` does, without the members that have their default and do not tell the class in a union."""
    kind = type(value)
    tags = _tags(kind)
    return {
        name: member
        for name, member in encode(value).items()
        if name in tags or not has_default(kind, name) or member != getattr(kind, name)
    }


def _tags(kind: type) -> dict[str, str]:
    """Returns the members of a frozen class that tell it in a union, with the word of each."""
    found = _known_tags.get(kind)
    if found is None:
        found = _known_tags[kind] = {
            name: member.words[0]
            for name, member in member_types(kind).items()
            if isinstance(member, type) and issubclass(member, Words) and len(member.words) == 1
        }
    return found


_known_tags: dict[type, dict[str, str]] = {}


def _optional(kind: Any) -> bool:
    return isinstance(kind, UnionType) and NoneType in kind.__args__


def _exactly(kind: type) -> Reader:
    def read(given: Any) -> Any:
        if type(given) is not kind:
            raise Misfit(kind, given)
        return given

    return read


def _float(given: Any) -> float:
    if type(given) is float:
        return given
    if type(given) is int:
        try:
            return float(given)
        except OverflowError:
            pass
    raise Misfit(float, given)


def _words(values: dict[str, Any]) -> Reader:
    def read(given: Any) -> Any:
        if type(given) is not str or given not in values:
            raise Misfit(str, given, tuple(values))
        return values[given]

    return read


def _list(element: Reader, made: Any) -> Reader:
    def read(given: Any) -> Any:
        if type(given) is not list:
            raise Misfit(list, given)
        found = []
        try:
            for each in given:
                found.append(element(each))
        except Misfit as misfit:
            raise misfit.inside(f"[{len(found)}]") from None
        return found if made is list else tuple(found)

    return read


def _dict(element: Reader) -> Reader:
    def read(given: Any) -> dict[str, Any]:
        if type(given) is not dict:
            raise Misfit(dict, given)
        found = {}
        for name, each in given.items():
            try:
                found[name] = element(each)
            except Misfit as misfit:
                raise misfit.inside(name) from None
        return found

    return read
