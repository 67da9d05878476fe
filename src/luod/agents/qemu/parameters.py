"""Reads the value of an option of QEMU: `key=value,…`, JSON, and the older forms of character devices.

It knows the notations and no option. All of them become the same flat list of keys and values: a member of an object
in JSON is `outer.inner` as in QEMU's own dotted keys, true is "on". Values that QEMU refuses may be read here: QEMU
says so when it starts.
"""

from __future__ import annotations

import json

from luod.errors import QemuRefusal
from luod.frozen import frozen

_SOCKETS = ("tcp", "telnet", "tn3270", "websocket")


@frozen
class Parameters:
    """The keys and values of one option, in their order."""

    items: tuple[tuple[str, str], ...] = ()

    def get(self, key: str, default: str = "") -> str:
        """Returns the value of `key`. Where a key is repeated, QEMU uses the last value."""
        return next((value for name, value in reversed(self.items) if name == key), default)

    def __contains__(self, key: str) -> bool:
        return any(name == key for name, _ in self.items)

    def is_on(self, key: str) -> bool:
        """Returns whether the boolean `key` is given and true."""
        return self.get(key) in ("on", "yes", "true", "y")

    def is_off(self, key: str) -> bool:
        """Returns whether the boolean `key` is given and false."""
        return self.get(key) in ("off", "no", "false", "n")


def read(text: str, implied: str = "") -> Parameters:
    """Returns the keys and values of `text`. `implied` is the key of a first value without one; with "", it has no key.

    Raises QemuRefusal: it begins as JSON and is not.
    """
    return _json(text) if text.startswith("{") else Parameters(tuple(_pairs(text, implied)))


def character_device(text: str) -> Parameters:
    """Returns the value of -serial, -qmp and the like as that of a -chardev, whose first key is `backend`."""
    text = text.removeprefix("mon:")
    if text.startswith("{"):
        return _json(text)
    kind, colon, rest = text.partition(":")
    if not colon:
        return Parameters((("backend", kind.partition(",")[0]), *_pairs(kind.partition(",")[2], "")))
    if kind in _SOCKETS:
        address, _, more = rest.partition(",")
        host, _, port = address.rpartition(":")
        return Parameters((("backend", "socket"), ("host", host), ("port", port), *_pairs(more, "")))
    if kind == "unix":
        return Parameters((("backend", "socket"), *_pairs(rest, "path")))
    if kind in ("file", "pipe"):
        return Parameters((("backend", kind), ("path", rest)))
    return Parameters((("backend", kind), ("chardev" if kind == "chardev" else "rest", rest)))


def escaped(value: str) -> str:
    """Returns `value` as it is written in `key=value,…`."""
    return value.replace(",", ",,")


def _pairs(text: str, implied: str) -> list[tuple[str, str]]:
    found = []
    at = 0
    while at < len(text):
        end = min(position for position in (text.find("=", at), text.find(",", at), len(text)) if position >= 0)
        if text[end : end + 1] == "=":
            key = text[at:end]
            value, at = _value(text, end + 1)
        elif implied:
            key = implied
            value, at = _value(text, at)
        else:
            key, at = text[at:end], end + 1
            key, value = (key.removeprefix("no"), "off") if key.startswith("no") else (key, "on")
        found.append((key, value))
        implied = ""
    return found


def _value(text: str, at: int) -> tuple[str, int]:
    """Returns the value that begins at `at`, and where the next key does. A comma in a value is written twice."""
    value = ""
    while True:
        comma = text.find(",", at)
        if comma < 0:
            return value + text[at:], len(text)
        value += text[at:comma]
        if text[comma : comma + 2] != ",,":
            return value, comma + 1
        value += ","
        at = comma + 2


def _json(text: str) -> Parameters:
    try:
        return Parameters(tuple(_flat("", json.loads(text))))
    except (ValueError, RecursionError) as error:
        raise QemuRefusal(
            f"this value of an option is not JSON: {text[:80]}", hint=f"{error}; write strings in double quotes"
        ) from error


def _flat(prefix: str, value: object) -> list[tuple[str, str]]:
    match value:
        case dict():
            members = [(str(name), member) for name, member in value.items()]
        case list():
            members = [(str(number), member) for number, member in enumerate(value)]
        case bool():
            return [(prefix, "on" if value else "off")]
        case _:
            return [(prefix, "" if value is None else str(value))]
    return [pair for name, member in members for pair in _flat(f"{prefix}.{name}" if prefix else name, member)]
