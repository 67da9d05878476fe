"""Writes the initial RAM disk of an emulated host: an archive of the newc format. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def archive(files: Mapping[str, bytes]) -> bytes:
    """Returns an archive of executable files by name."""
    entries = [_entry(name, content, 0o100755) for name, content in files.items()]
    return b"".join(entries) + _entry("TRAILER!!!", b"", 0)


def _entry(name: str, content: bytes, mode: int) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
