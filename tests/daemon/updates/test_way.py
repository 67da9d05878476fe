"""Which way an update takes."""

from __future__ import annotations

import pytest

from luod.daemon.updates.way import choose
from luod.ipc.types.phases import Way


@pytest.mark.parametrize(
    ("asked", "policy", "kinds", "booted", "expected"),
    [
        (None, "direct", (), True, "direct"),
        (None, "systemd", ("memfd",), True, "systemd"),
        (None, "systemd", ("memfd", "vfio"), True, "direct"),
        (None, "systemd", ("iommufd",), True, "direct"),
        (None, "systemd", (), False, "direct"),
        ("systemd", "direct", ("vfio",), True, "systemd"),
        ("direct", "systemd", (), True, "direct"),
    ],
)
def test_the_operator_decides_then_devices_then_the_policy(
    asked: Way | None, policy: Way, kinds: tuple[str, ...], booted: bool, expected: Way
) -> None:
    assert choose(asked, policy, kinds=kinds, booted=booted) == expected
