"""The file of a report: `luod-fleet rehearse -o` writes it, `luod-fleet report` reads it."""

from __future__ import annotations

import json
from typing import Final

from luod.decode import Decoder, Misfit, encode
from luod.errors import BadInput
from luod.fleet.outcome import FORMAT, Report

_DECODER: Final = Decoder(strict=False)


def encoded(report: Report) -> str:
    """Returns the report as a line of JSON."""
    return json.dumps(report, default=encode)


def write(path: str, report: Report) -> None:
    """Raises OSError."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(encoded(report) + "\n")


def read(path: str) -> Report:
    """Returns a report that `write` wrote. Raises BadInput: the file has none, or one of another format. OSError."""
    with open(path, encoding="utf-8") as file:
        try:
            found: Report = _DECODER(Report, json.load(file))
        except (ValueError, Misfit) as error:
            raise BadInput(f"{path} has no report: {error}", hint="`luod-fleet rehearse -o FILE` writes one") from None
    if found.format != FORMAT:
        raise BadInput(f"{path} has format {found.format}, not {FORMAT}", hint="use the luod-fleet that wrote it")
    return found
