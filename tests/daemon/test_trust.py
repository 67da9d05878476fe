"""Users that could change a file that luod relies on: modes, owners, the directories above, symbolic links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luod.daemon.trust import Fault, fault
from luod.testing.tools import for_root


def made(path: Path, mode: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.touch()
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_what_only_its_owner_can_write_is_trusted(tmp_path: Path, mode: int) -> None:
    assert fault(made(tmp_path / "file", mode)) is None


@pytest.mark.parametrize(("mode", "whom"), [(0o602, "every user"), (0o666, "every user"), (0o664, "its group (gid ")])
def test_what_others_can_write_is_named_with_its_remedy(tmp_path: Path, mode: int, whom: str) -> None:
    file = made(tmp_path / "file", mode)
    found = fault(file)
    assert found is not None
    assert (found.path, found.remedy) == (str(file), f"chmod go-w {file}")
    assert f"can be written by {whom}" in found.what


def test_another_owner_is_named_with_its_remedy(tmp_path: Path) -> None:
    for_root("to give a file away")
    file = made(tmp_path / "file", 0o644)
    os.chown(file, 1000, 1000)
    assert fault(file) == Fault(str(file), "is owned by uid 1000", f"chown root {file}")


def test_a_directory_above_counts(tmp_path: Path) -> None:
    file = made(tmp_path / "directory" / "file", 0o644)
    file.parent.chmod(0o777)
    found = fault(file)
    assert found is not None
    assert found.path == str(file.parent)
    file.parent.chmod(0o1777)
    assert fault(file) is None


def test_in_a_sticky_directory_the_owner_of_the_file_counts(tmp_path: Path) -> None:
    for_root("to give a file away")
    tmp_path.chmod(0o1777)
    (tmp_path / "link").symlink_to(made(tmp_path / "file", 0o644))
    assert fault(tmp_path / "link") is None
    os.lchown(tmp_path / "link", 1000, 1000)
    found = fault(tmp_path / "link")
    assert found is not None
    assert found.remedy == f"chown -h root {tmp_path}/link"


def test_what_a_link_leads_to_counts(tmp_path: Path) -> None:
    file = made(tmp_path / "open" / "file", 0o644)
    (tmp_path / "two").symlink_to("open")
    (tmp_path / "one").symlink_to("two/file")
    assert fault(tmp_path / "one") is None
    file.parent.chmod(0o777)
    found = fault(tmp_path / "one")
    assert found is not None
    assert found.path == str(file.parent)


def test_what_is_not_there_has_no_fault_of_its_own(tmp_path: Path) -> None:
    assert fault(tmp_path / "nothing" / "file") is None
    tmp_path.chmod(0o777)
    assert fault(tmp_path / "nothing" / "file") is not None


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert fault(tmp_path / "a") is None
