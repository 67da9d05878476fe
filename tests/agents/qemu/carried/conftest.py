"""The fixtures of the tests with guests: `host`, a machine with luod on which guests can be started."""

from __future__ import annotations

import pytest

from tests.agents.qemu.carried import host as hosts
from tests.daemon.host import Luod


@pytest.fixture
def host(luod: Luod) -> hosts.Host:
    return hosts.Host(luod)


@pytest.fixture(params=["of the machine", "newer"])
def program(request: pytest.FixtureRequest) -> str:
    """Returns the path of a QEMU: the test runs with each."""
    return hosts.qemu() if request.param == "of the machine" else hosts.newer_qemu()
