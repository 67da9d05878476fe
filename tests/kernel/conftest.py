"""Tests of the real kernel alone: collected with `--luod-machine kernel` only (`make test-kernel`)."""

from __future__ import annotations

import pytest

from luod.testing.plugin import machine_kinds


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if "kernel" in machine_kinds(config) else True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the random programs, which take five minutes: a worker would be alone with them at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/kernel/test_random_programs.py"))
