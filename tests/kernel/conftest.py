"""Tests of the real kernel alone: collected with `--luod-machine kernel` only (`make test-kernel`)."""

from __future__ import annotations

import pytest

from luod.testing.plugin import machine_kinds


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if "kernel" in machine_kinds(config) else True
