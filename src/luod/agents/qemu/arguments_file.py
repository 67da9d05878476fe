"""The file with the command line of a unit's guest: words as in a shell, over any number of lines, with comments."""

from __future__ import annotations

import shlex
from typing import Final

from luod.errors import BadInput

FOLDER: Final = "/etc/luod/qemu"


def path_of(name: str) -> str:
    """Returns the file of the guest `name`."""
    return f"{FOLDER}/{name}.args"


def read(path: str) -> tuple[str, ...]:
    """Returns the words of the file: a QEMU and its arguments. Nothing in it is expanded.

    Raises BadInput: it has none, or a quote that does not end. Raises OSError.
    """
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    try:
        words = tuple(shlex.split(text, comments=True))
    except ValueError as error:
        raise BadInput(f"{path}: {error}", hint="write words as in a shell, with quotes in pairs") from error
    if not words:
        raise BadInput(f"{path} has no command", hint="write a QEMU and its arguments")
    return words
