"""Takes the bytes of an initial RAM disk from pieces, as a decompressor yields them.

It knows the position to which archives are aligned, and nothing of what is in them: `luod.image.cpio` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from luod.errors import ImageError
from luod.image import foreign

_ZEROS: Final = re.compile(rb"\0*")


class Pieces:
    """Takes bytes from pieces.

    `count` is called with the size of each. `position`: that of the next byte, to which alignment refers; `begin`: the
    first bytes of all.
    """

    def __init__(self, pieces: Iterator[bytes], count: Callable[[int], None], position: int = 0) -> None:
        self._pieces = pieces
        self._count = count
        self._rest = b""
        self._at = 0
        self.position = position
        self.begin = b""
        self.cut = False
        """Whether padding was missing at the end."""

    def more(self) -> bool:
        """Returns whether there is another byte."""
        while self._at == len(self._rest):
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._rest, self._at = piece, 0
            self.begin = self.begin or piece[: foreign.LOOKED_AT]
            self._count(len(piece))
        return True

    def peek(self) -> int:
        """Returns the next byte. There must be one."""
        return self._rest[self._at]

    def parts(self, size: int) -> Iterator[bytes]:
        """Takes bytes in parts, as they come."""
        while size:
            count = self._pass(size)
            size -= count
            yield self._rest[self._at - count : self._at]

    def take(self, size: int) -> bytes:
        return b"".join(self.parts(size))

    def pass_over(self, size: int, *, summed: bool = False) -> int:
        """Skips bytes, and returns their sum if requested."""
        if summed:
            return sum(map(sum, self.parts(size))) & 0xFFFFFFFF
        while size:
            size -= self._pass(size)
        return 0

    def align(self) -> None:
        """Skips to a multiple of four bytes."""
        missing = -self.position % 4
        while missing and self.more():
            missing -= self._pass(missing)
        self.cut = missing > 0

    def skip_zeros(self) -> None:
        while self.more() and not self._rest[self._at]:
            past = past_zeros(self._rest, self._at)
            self.position += past - self._at
            self._at = past

    def _pass(self, size: int) -> int:
        """Skips bytes of one piece, up to `size`, and returns their number."""
        if not self.more():
            raise ImageError(unusable("it is cut off"))
        count = min(size, len(self._rest) - self._at)
        self._at += count
        self.position += count
        return count


def past_zeros(data: bytes, at: int) -> int:
    """Returns the end of the zeros that begin at `at`."""
    found = _ZEROS.match(data, at)
    return found.end() if found else at


def unusable(why: str) -> str:
    """Returns the message about an initial RAM disk that no kernel can use."""
    return f"the initial RAM disk cannot be used: {why}"
