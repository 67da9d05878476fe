"""What luoctl prints: aligned text for people, one JSON object a line for programs (`--json`, docs/json.md).

Text is coloured and drawn as tables by rich on a terminal only, and rich is imported then only. Names that came from
elsewhere are escaped before a person sees them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from luod.arguments import report

FORMAT: Final = 1
"""`version` in every JSON object: it goes up when a member changes its meaning or goes away."""


def counted(number: int, thing: str) -> str:
    """1 file, 2 files."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def size(bytes: int) -> str:
    """Returns bytes for people, as 100 B, 1.5 MiB or 2 GiB."""
    amount, units = float(bytes), iter(("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))
    unit = next(units)
    while round(amount, 1) >= 1024:
        amount, unit = amount / 1024, next(units)
    return f"{amount:.1f}".removesuffix(".0") + f" {unit}"


def escaped(text: str) -> str:
    """`text` with everything a terminal might act on, or that cannot be seen, written as an escape (H24)."""
    return "".join(
        character
        if character.isprintable() and character != "\\"
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


class Output:
    """The one way to standard output. `json` picks objects over text."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def object(self, members: Mapping[str, Any]) -> None:
        """One JSON object on one line, at once: a reader of a stream must not wait for a buffer to fill."""
        import json

        print(json.dumps({"version": FORMAT, **members}), flush=True)

    def line(self, text: str) -> None:
        """One line for people; `text` is escaped already where it is foreign."""
        print(text, flush=True)

    def facts(self, rows: Iterable[tuple[str, str]]) -> None:
        """Names and values, a line each, the values aligned."""
        rows = list(rows)
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f"{name:<{width}}  {value}".rstrip())

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows under a head: by rich on a terminal, otherwise columns aligned with spaces."""
        if sys.stdout.isatty():
            self._rich_table(head, rows)
            return
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        for row in (head, *rows):
            print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())

    def _rich_table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in head:
            table.add_column(title, overflow="fold")
        for row in rows:
            # Text, not str: rich would read a name such as "[red]" as markup.
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)

    def failure(self, kind: str, message: str, hint: str, *, usage: str = "") -> None:
        """Prints an error: to standard error for people, as an object on standard output with `--json`."""
        if self.json:
            self.object({"error": kind, "message": message, "hint": "; ".join(filter(None, (hint, usage)))})
        else:
            report("luoctl", escaped(message), usage=usage, hint=escaped(hint))
