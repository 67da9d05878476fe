"""What the blackouts of earlier updates let expect: pure, and as a file of the state directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.daemon.timeline import blackouts
from luod.ipc.types.admin import Blackout


def test_without_an_earlier_update_nothing_is_expected(tmp_path: Path) -> None:
    assert blackouts.expected(blackouts.read(str(tmp_path))) is None


def test_the_median_is_expected_and_the_longest_is_told(tmp_path: Path) -> None:
    for seconds in (1.0, 9.0, 2.0):
        blackouts.add(str(tmp_path), seconds)
    assert blackouts.expected(blackouts.read(str(tmp_path))) == Blackout(3, 2.0, 9.0)
    blackouts.add(str(tmp_path), 4.0)
    assert blackouts.expected(blackouts.read(str(tmp_path))) == Blackout(4, 3.0, 9.0)


def test_only_the_last_eight_updates_count(tmp_path: Path) -> None:
    for seconds in range(20):
        blackouts.add(str(tmp_path), float(seconds))
    assert blackouts.read(str(tmp_path)) == tuple(float(seconds) for seconds in range(19, 11, -1))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": 2, "seconds": [1.0]}',
        b'{"format": 1, "seconds": ["1"]}',
        b'{"format": 1, "seconds": [-1.0]}',
        b'{"format": 1, "seconds": [NaN]}',
    ],
)
def test_a_damaged_file_is_one_without_blackouts_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "blackouts").write_bytes(content)
    assert blackouts.read(str(tmp_path)) == ()
    blackouts.add(str(tmp_path), 2.5)
    assert blackouts.read(str(tmp_path)) == (2.5,)
