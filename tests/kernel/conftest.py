"""Tests of the real kernel alone: collected with `--luod-machine kernel` only (`make test-kernel`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from luod.testing.plugin import machine_kinds
from tests.daemon.host import Luod
from tests.kernel.booting import booted


@pytest.fixture(scope="module")
def luod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luod]:
    """Yields the module's luod, in a machine of its own. A test that does a kexec leaves it in the next boot."""
    with booted(tmp_path_factory) as machine:
        luod = Luod(machine, tmp_path_factory.mktemp("state"))
        luod.start()
        yield luod


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if "kernel" in machine_kinds(config) else True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the random programs, which take five minutes: a worker would be alone with them at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/kernel/test_random_programs.py"))
