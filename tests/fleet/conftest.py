"""The collection and an unmodified Ansible for the tests that run it: make sets LUOD_ANSIBLE."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luod.testing.tools import cannot_run
from tests.library import ROOT


@pytest.fixture(scope="session")
def ansible() -> str:
    """Returns the directory with Ansible's programs."""
    return os.environ.get("LUOD_ANSIBLE") or cannot_run("LUOD_ANSIBLE names no directory with Ansible's programs")


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a path of collections with ours."""
    return linked(tmp_path_factory.mktemp("collections"))


def linked(path: Path) -> Path:
    """Makes `path` one of collections with ours, as a link: Ansible finds a role by the name of its directory."""
    (path / "ansible_collections/luod").mkdir(parents=True)
    (path / "ansible_collections/luod/host").symlink_to(ROOT / "ansible")
    return path
