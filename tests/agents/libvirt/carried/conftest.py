"""The fixture of the tests with domains: `host`, a machine with luod and libvirt."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.testing.tools import for_root
from tests.agents.libvirt.carried.host import LibvirtHost
from tests.daemon.host import Luod


@pytest.fixture
def host(luod: Luod, tmp_path: Path) -> LibvirtHost:
    for_root("since libvirt's QEMU has a user of its own")
    return LibvirtHost(luod, tmp_path)
