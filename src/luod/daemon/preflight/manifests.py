"""Reads the manifests of sessions without a participant: nothing else tells luod what such a session holds.

A manifest is its maker's word, and only its first part is known. One that is full of short records takes 20 ms, so a
check reads it in a thread; later only one that has changed is read again.
"""

from __future__ import annotations

from luod.errors import ManifestError
from luod.frozen import frozen
from luod.manifest import read_first
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luod.manifest import Entry


@frozen
class Listed:
    """The files of a session as its manifest lists them. `complete`: there are no others in further parts."""

    session: str
    files: tuple[Entry, ...]
    complete: bool


class ManifestReader:
    """Keeps what the last manifests said, by their bytes."""

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[tuple[Entry, ...], bool]] = {}

    def read(self, manifests: Mapping[str, bytes]) -> tuple[Listed, ...]:
        """Returns the files of sessions, by the name of each, sorted. A damaged manifest lists no file."""
        kept = self._kept
        self._kept = {data: kept[data] if data in kept else _files(data) for data in manifests.values()}
        return tuple(Listed(name, *self._kept[data]) for name, data in sorted(manifests.items()))


def _files(data: bytes) -> tuple[tuple[Entry, ...], bool]:
    try:
        reading, complete = read_first(data)
    except ManifestError:
        return (), False
    return reading.files, complete
