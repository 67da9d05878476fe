"""A domain has one agent at a time, and its files can be found by QEMU whatever the agent's umask is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luod.agents.libvirt import lock, paths
from luod.errors import QemuRefusal


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "libvirt"
    monkeypatch.setattr(paths, "FOLDER", str(found))
    return found


def test_a_second_agent_is_told_who_has_the_domain() -> None:
    with lock.held("web"), pytest.raises(QemuRefusal, match=f"web is with process {os.getpid()},"), lock.held("web"):
        pass


def test_the_next_agent_has_it_when_the_last_has_ended() -> None:
    with lock.held("web"):
        pass
    with lock.held("web"):
        pass


def test_domains_do_not_exclude_each_other() -> None:
    with lock.held("web"), lock.held("db"):
        pass


def test_qemu_can_go_through_the_folder_whatever_the_umask_is(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        paths.make_folder()
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o755
