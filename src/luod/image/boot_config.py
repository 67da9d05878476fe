"""Extra boot configuration after an initial RAM disk: Documentation/admin-guide/bootconfig.rst of the kernel.

Its keys under `kernel.` and `init.` become parameters. `tail` finds it, `parse` reads it. `luod.image.command_line`
decides whether the kernel uses it.
"""

from __future__ import annotations

import re
import string
import struct
from typing import Final

from luod.errors import ImageError

_MAGIC: Final = b"#BOOTCONFIG\n"
_PADDING_MAX: Final = 3
_DATA_MAX: Final = (1 << 15) - 1
_NODES_MAX: Final = 8192
_DEPTH_MAX: Final = 16
_KEY_MAX: Final = 256
_KEYWORD: Final = re.compile(r"[A-Za-z0-9_-]+")
_DELIMITER: Final = re.compile(r"[{}=+;:\n#]")
_BLANKS: Final = " \t\r\v\f"
_VALUE_END: Final = ",;\n#}"


def tail(data: bytes) -> tuple[int, bytes | None]:
    """Returns the end of the initial RAM disk in bytes, and the configuration after it.

    Without a valid configuration, the second is None and the first is the end of `data`.
    """
    for padding in range(_PADDING_MAX + 1):
        footer = len(data) - padding - len(_MAGIC) - 8
        if footer < 0:
            break
        if data[footer + 8 : footer + 8 + len(_MAGIC)] == _MAGIC:
            size, checksum = struct.unpack_from("<II", data, footer)
            text = data[footer - size : footer] if size <= min(_DATA_MAX, footer) else b""
            if size <= min(_DATA_MAX, footer) and sum(text) & 0xFFFFFFFF == checksum:
                return footer - size, text
            break
    return len(data), None


class _Key:
    """A key with its values (None: never assigned) and its subkeys, each in order.

    `length`: of its whole name, with a dot after each word.
    """

    def __init__(self, depth: int = 0, length: int = 0) -> None:
        self.values: list[str] | None = None
        self.keys: dict[str, _Key] = {}
        self.depth = depth
        self.length = length


def parse(data: bytes) -> tuple[str, str]:
    """Returns the parameters of the kernel and those of init, as the kernel renders them.

    Raises ImageError when the kernel would not accept this configuration. It uses no part of it then.
    """
    root = _Parser(data.partition(b"\0")[0].decode("latin-1")).tree()
    return _rendered(root.keys.get("kernel", _Key())), _rendered(root.keys.get("init", _Key()))


def _rendered(root: _Key) -> str:
    words: list[str] = []

    def add(key: _Key, name: str) -> None:
        if name and (key.values is not None or not key.keys):
            if key.values is None:
                words.append(name)
            for value in key.values or ():
                quote = '"' if re.search(r"[ \t\r\n]", value) else ""
                words.append(f"{name}={quote}{value}{quote}")
        for each, below in key.keys.items():
            add(below, f"{name}.{each}" if name else each)

    add(root, "")
    return " ".join(words)


class _Parser:
    """Parses a configuration once, from start to end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._root = _Key()
        self._open: list[_Key] = [self._root]
        self._nodes = 0

    def tree(self) -> _Key:
        text = self._text
        while True:
            delimiter = _DELIMITER.search(text, self._at)
            if delimiter is None:
                if text[self._at :].strip():
                    raise self._error("a key has no end")
                break
            key, self._at = text[self._at : delimiter.start()], delimiter.end()
            self._statement(key, delimiter.group())
        if len(self._open) > 1:
            raise self._error("a brace is not closed")
        if not self._root.keys:
            raise self._error("it is empty")
        return self._root

    def _statement(self, key: str, delimiter: str) -> None:
        if delimiter in "+:":
            if self._text[self._at : self._at + 1] != "=":
                raise self._error(f"{delimiter} without =")
            self._at += 1
        if delimiter in "+:=":
            self._assign(self._key(key), delimiter)
        elif delimiter == "{":
            if len(self._open) > _DEPTH_MAX:
                raise self._error("braces are nested too deeply")
            self._open.append(self._key(key))
        else:
            if delimiter == "#":
                self._past_comment()
            if key.strip():
                self._key(key)
            if delimiter == "}":
                self._close()

    def _close(self) -> None:
        if len(self._open) == 1:
            raise self._error("a brace is closed that was not opened")
        self._open.pop()

    def _key(self, dotted: str) -> _Key:
        """Returns the key of this name below the open brace, and makes it if it is missing."""
        here = self._open[-1]
        for name in dotted.strip().split("."):
            if not _KEYWORD.fullmatch(name):
                raise self._error(f"{name!r} is not a key")
            if name not in here.keys:
                here.keys[name] = _Key(depth=here.depth + 1, length=here.length + len(name) + 1)
                self._count()
            here = here.keys[name]
            if here.depth > _DEPTH_MAX or here.length > _KEY_MAX:
                raise self._error("a key is too long")
        return here

    def _count(self) -> None:
        self._nodes += 1
        if self._nodes > _NODES_MAX:
            raise self._error("it has too many keys and values")

    def _assign(self, key: _Key, operator: str) -> None:
        if operator == "=" and key.values is not None:
            raise self._error("a value is redefined")
        values = key.values or [] if operator == "+" else []
        self._skip(_BLANKS)
        if self._text[self._at : self._at + 1] == "#":
            self._past_comment()
            values.append("")
            end = "\n"
        else:
            value, end = self._value()
            values.append(value)
        self._count()
        while end == ",":
            self._skip(_BLANKS + "\n")
            while self._text[self._at : self._at + 1] == "#":
                self._past_comment()
                self._skip(_BLANKS + "\n")
            value, end = self._value()
            values.append(value)
            self._count()
        key.values = values
        if end == "}":
            self._close()

    def _value(self) -> tuple[str, str]:
        """Returns the value at the present position, and the delimiter after it; "" at the end of the text.

        The position is after the delimiter then.
        """
        text, start = self._text, self._at
        quote = text[start : start + 1]
        if quote in ("'", '"'):
            closing = text.find(quote, start + 1)
            if closing < 0:
                raise self._error("a quote is not closed")
            value = text[start + 1 : closing]
            self._at = closing + 1
            self._skip(_BLANKS)
            end = text[self._at : self._at + 1]
            if end and end not in _VALUE_END:
                raise self._error("a value is followed by something else")
        else:
            while self._at < len(text) and text[self._at] not in _VALUE_END:
                self._at += 1
            value, end = text[start : self._at].strip(), text[self._at : self._at + 1]
        if any(character not in string.printable and ord(character) < 0xA0 for character in value):
            raise self._error("a value has characters that cannot be printed")
        self._at += len(end)
        if end == "#":
            self._at -= 1
            self._past_comment()
            end = "\n"
        return value, end

    def _skip(self, characters: str) -> None:
        while self._at < len(self._text) and self._text[self._at] in characters:
            self._at += 1

    def _past_comment(self) -> None:
        end = self._text.find("\n", self._at)
        self._at = len(self._text) if end < 0 else end + 1

    def _error(self, why: str) -> ImageError:
        return ImageError(f"the boot configuration is not valid: {why} at byte {self._at}")
