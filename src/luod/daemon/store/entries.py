"""The bodies of the registry's entries as JSON: the whole record, or the changes of rows since. Pure.

luod reads and writes a thousand rows while guests are paused. So a row is a list: its direction, then its members in
order, whose types are checked all at once. In an entry of changes, a removed row is its direction and name.
"""

from __future__ import annotations

import json

from luod.daemon.store.schema import FORMAT, OLDEST_FORMAT, IncomingRow, OutgoingRow, Record, Row
from luod.daemon.store.states import IncomingState, OutgoingState
from luod.decode import Decoder, Misfit, encode_shortly
from luod.frozen import members
from luod.static import TYPE_CHECKING, Any, Final
from luod.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from luod.ipc.types.sessions import Direction

    Key = tuple[Direction, str]

_KINDS, _STATE = (members(OutgoingRow).index(name) for name in ("kinds", "state"))
_ROWS: Final = {
    kind.direction: (
        kind,
        {state.value: state for state in states},
        frozenset(
            (str, int, generation, int, float, float, list, str, *more)
            for generation in (int, type(None))
            for more in ((), (last,))
        ),
    )
    for kind, states, last in ((OutgoingRow, OutgoingState, bool), (IncomingRow, IncomingState, int))
}
"""By direction: the class of a row, its states, and the types in its list. Formats before 7 lack the last one."""
_WRITER: Final = "luod"
"""The member of a whole record with the version of its writer."""


class Meaningless(Exception):
    """A body that is not an entry."""


class OtherFormat(Exception):
    """A whole record of another format, `number`. `writer`: the version of the luod that wrote it, "" if not known."""

    def __init__(self, number: int, writer: str) -> None:
        super().__init__(number)
        self.number = number
        self.writer = writer


def key(row: Row) -> Key:
    return row.direction, row.name


def whole(record: Record) -> bytes:
    """Returns the body of a whole record, with the version of this luod."""
    return _ENCODER.encode(encode_shortly(record) | {_WRITER: __version__}).encode()


def changes(rows: Mapping[Key, Row | None]) -> bytes:
    """Returns the body of an entry of changes: the rows that are new or other ones, and None for each removed one."""
    return _ENCODER.encode([key if row is None else row for key, row in rows.items()]).encode()


def read_whole(body: bytes) -> Record:
    """Returns the record, which may be of an older format. Raises OtherFormat, Meaningless."""
    found = _loaded(body)
    if type(found) is dict:
        writer, written = found.pop(_WRITER, ""), found.get("format")
        if type(written) is int and not OLDEST_FORMAT <= written <= FORMAT:
            raise OtherFormat(written, str(writer))
        found["format"] = FORMAT if type(written) is int else written
    try:
        return _DECODER(Record, found)
    except Misfit as misfit:
        raise Meaningless(str(misfit)) from None


def read_changes(body: bytes) -> dict[Key, Row | None]:
    """Returns the changes. Raises Meaningless."""
    found = _loaded(body)
    if type(found) is not list:
        raise Meaningless("it is not a list")
    rows: dict[Key, Row | None] = {}
    for each in found:
        match each:
            case ["outgoing" | "incoming" as direction, str(name)]:
                rows[direction, name] = None
            case _:
                row = _row(each)
                rows[key(row)] = row
    return rows


def _plain(value: Row | object) -> object:
    if type(value) is OutgoingRow or type(value) is IncomingRow:
        return [value.direction, *vars(value).values()]
    return encode_shortly(value)


def _loaded(body: bytes) -> Any:
    try:
        return json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise Meaningless(str(error)) from None


def _rows(given: Any) -> tuple[Row, ...]:
    if type(given) is not list:
        raise Meaningless("its rows are not a list")
    return tuple(map(_row, given))


def _row(given: Any) -> Row:
    try:
        direction, *values = given
        kind, states, types = _ROWS[direction]
        if tuple(map(type, values)) not in types:
            raise TypeError
        values[_KINDS] = tuple(values[_KINDS])
        values[_STATE] = states[values[_STATE]]
        row: Row = kind(*values)
    except (KeyError, TypeError, ValueError):
        raise Meaningless(f"{given!r:.200} is not a row") from None
    return row


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False, default=_plain)
_OTHERS: Final[dict[Any, Callable[[Any], Any]]] = {tuple[Row, ...]: _rows}
_DECODER: Final = Decoder(strict=True, others=_OTHERS)
