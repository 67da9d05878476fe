"""luoctl's output: aligned text, or with `--json` one JSON object a line (docs/json.md).

On a terminal, rich draws the tables; it is imported only then. Callers escape names from outside before they print
them as text.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from luod.arguments import report
from luod.decode import encode

FORMAT: Final = 1
"""The member `version` of every JSON object. It increases when a member is removed or changes its meaning."""


WAYS: Final = {
    "direct": "direct: luod starts the next kernel",
    "systemd": "systemd: it stops the units, and starts the next kernel",
}
"""The ways of an update, for people."""


def counted(number: int, thing: str) -> str:
    """Returns the number with the thing, such as 1 file or 2 files."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def size(bytes: int) -> str:
    """Returns a size in binary units, such as 100 B, 1.5 MiB or 2 GiB. It may be a sum of any sizes, from any user."""
    amount, unit = float(bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if round(amount, 1) < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f}".removesuffix(".0") + f" {unit}"


def escaped(text: str) -> str:
    """Returns `text` with control and invisible characters and backslashes as escape sequences (H24)."""
    return "".join(
        character
        if character.isprintable() and character != "\\"
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


class Output:
    """The only writer of standard output. `json`: verbs print objects instead of text."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def object(self, members: Mapping[str, Any]) -> None:
        """Prints a JSON object on one line and flushes it, so that a reader of a stream gets it at once. Members can be
        frozen objects.
        """
        import json

        print(json.dumps({"version": FORMAT, **members}, default=encode), flush=True)

    def verdict(self, text: str, *, good: bool) -> None:
        """Prints the result as a line of text. With `--json` the line is on standard error, and only if the result is
        not `good`: programs that run luoctl for a person show it. Names from outside must be escaped.
        """
        if not self.json:
            self.line(text)
        elif not good:
            report("luoctl", text)

    def line(self, text: str) -> None:
        """Prints a line of text. Names from outside in `text` must be escaped."""
        print(text, flush=True)

    def facts(self, rows: Iterable[tuple[str, str]]) -> None:
        """Prints names and values on a line each, with the values aligned."""
        rows = list(rows)
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f"{name:<{width}}  {value}".rstrip())

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Prints a table: with rich on a terminal, otherwise with columns aligned by spaces."""
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
        """Prints an error as text on standard error; with `--json` as an object on standard output, and its message
        on standard error.
        """
        if self.json:
            self.object({"error": kind, "message": message, "hint": "; ".join(filter(None, (hint, usage)))})
            report("luoctl", escaped(message))
        else:
            report("luoctl", escaped(message), usage=usage, hint=escaped(hint))
