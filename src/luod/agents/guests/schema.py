"""What a QEMU says that its monitor understands. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Schema:
    """The answer of query-qmp-schema. Its types have numbers for names, so they are found from a command on."""

    def __init__(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        self._entries = entries

    @classmethod
    def of(cls, answer: Sequence[Mapping[str, Any]]) -> Schema:
        return cls({entry["name"]: entry for entry in answer})

    @property
    def has_file_uri(self) -> bool:
        """Returns whether a state is written to and loaded from a file by the address `file:`."""
        return "file" in self.words("migrate", "channels", "addr", "transport")

    def words(self, command: str, *members: str) -> tuple[str, ...]:
        """Returns the words that a member of a command's arguments may have; () if there is no such member."""
        entry = self._entries[self._entries[command]["arg-type"]] if command in self._entries else {}
        for name in members:
            while entry.get("meta-type") == "array":
                entry = self._entries[entry["element-type"]]
            types = [member["type"] for member in entry.get("members", ()) if member["name"] == name]
            if not types:
                return ()
            entry = self._entries[types[0]]
        return tuple(map(str, entry.get("values", ())))
