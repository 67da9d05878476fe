"""The longest blackouts of the last updates, from which `luoctl check` says what to expect of the next one.

They are in the file `blackouts` of the state directory, the newest first. Nothing depends on it: a file that cannot be
read is one without blackouts. `luod.decode` reads the annotations.
"""

import json
import os

from luod.daemon.store import state_file
from luod.decode import Decoder, Misfit
from luod.frozen import frozen
from luod.ipc.types.admin import Blackout
from luod.static import Final

_FORMAT: Final = 1
_MOST: Final = 8
_MOST_BYTES: Final = 4096
_DECODER: Final = Decoder(strict=True)


@frozen
class _File:
    format: int
    seconds: tuple[float, ...]


def expected(seconds: tuple[float, ...]) -> Blackout | None:
    """Returns what to expect after these blackouts; None without any."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return Blackout(len(ordered), round(middle, 6), ordered[-1])


def read(directory: str) -> tuple[float, ...]:
    """Returns the blackouts in seconds; () if there is no file, or it is damaged or of another format."""
    try:
        with open(_path(directory), "rb") as file:
            found: _File = _DECODER(_File, json.loads(file.read(_MOST_BYTES)))
    except (OSError, ValueError, TypeError, Misfit):
        return ()
    whole = found.format == _FORMAT and all(seconds >= 0.0 for seconds in found.seconds)
    return found.seconds[:_MOST] if whole else ()


def add(directory: str, seconds: float) -> None:
    """Adds the blackout of an update that is done. Raises OSError."""
    kept = (seconds, *read(directory))[:_MOST]
    state_file.replace(_path(directory), json.dumps({"format": _FORMAT, "seconds": kept}).encode() + b"\n")


def _path(directory: str) -> str:
    return os.path.join(directory, "blackouts")
