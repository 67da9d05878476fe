"""Files that an operator names: a regular one is replaced, a link followed, everything else written to."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from luod.ctl.files import write
from luod.testing.tools import for_root


def test_a_regular_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"what was there before")
    before = target.stat().st_ino
    write(str(target), b"new")
    assert target.read_bytes() == b"new"
    assert target.stat().st_ino != before
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed_and_its_target_replaced_in_its_own_directory(tmp_path: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "file", tmp_path / "link"
    if there:
        target.write_bytes(b"old")
    (tmp_path / "middle").symlink_to("far/file")
    link.symlink_to(tmp_path / "middle")
    write(str(link), b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert not target.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["far", "link", "middle"]
    assert os.listdir(tmp_path / "far") == ["file"]


def test_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    for_root("to make a device")
    null = tmp_path / "null"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    write(str(null), b"x")
    assert stat.S_ISCHR(null.stat().st_mode)
    with pytest.raises(OSError, match="No space left") as caught:
        write("/dev/full", b"x")
    assert caught.value.filename == "/dev/full"


def test_a_named_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its errno is looked at
        write(str(pipe), b"nobody reads it")
    assert caught.value.errno == errno.ENXIO
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write(str(pipe), b"metrics")
    assert os.read(reader, 100) == b"metrics"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_an_fd_is_written_to_where_it_stands(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    source = f"""
import os
from luod.ctl.files import write
os.write(1, b"before ")
write({path!r}, b"data")
os.write(1, b" after")
"""
    command = [sys.executable, "-c", source]
    if kind == "pipe":
        assert subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout == b"before data after"
        return
    with open(tmp_path / "out", "wb") as out:
        subprocess.run(command, cwd=tmp_path, check=True, stdout=out)
    assert (tmp_path / "out").read_bytes() == b"before data after"
    assert sorted(os.listdir(tmp_path)) == ["link", "out"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("", errno.ENOENT),
        (".", errno.EISDIR),
        ("/", errno.EISDIR),
        ("directory", errno.EISDIR),
        ("new/", errno.EISDIR),
        ("nowhere/file", errno.ENOENT),
        ("circle", errno.ELOOP),
        ("x" * 300, errno.ENAMETOOLONG),
        ("/dev/fd/999", errno.EBADF),
    ],
)
def test_an_error_names_the_path_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("directory").mkdir()
    Path("circle").symlink_to("circle")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its errno is looked at
        write(path, b"x")
    assert (caught.value.filename, caught.value.errno) == (path, code)
    assert sorted(os.listdir()) == ["circle", "directory"]
