"""What an update asks of files right before guests are frozen and right before the kexec: never their content."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luod.daemon.preflight.check import Preflight
from luod.daemon.preflight.rules import MOMENTS
from luod.daemon.preflight.subject import Subject
from luod.daemon.store.journal_file import Journal
from luod.emulator.machine.stub import bzimage
from luod.errors import Refused
from luod.linux import Fd
from tests.image.archives import cpio


class Files:
    """A kernel and an initial RAM disk."""

    def __init__(self, folder: Path) -> None:
        self.paths = folder / "kernel", folder / "initrd"
        for path, content in zip(self.paths, (bzimage(), cpio({"etc/one": b"1"})), strict=True):
            path.write_bytes(content)

    def opened(self, flags: int) -> Subject:
        kernel, initrd = (Fd(os.open(path, flags)) for path in self.paths)
        return Subject(kernel, initrd, "liveupdate=on kho=on")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def checked(files: Files, folder: Path) -> Preflight:
    """Returns preflight after the check with which an update into these files begins."""
    none: Any = SimpleNamespace(held=(), rows=list, followers=[])
    registry: Any = SimpleNamespace(file=Journal(str(folder)), file_error="", rest=SimpleNamespace(doubts=()))
    preflight = Preflight(none, none, registry, ())
    with closing(files.opened(os.O_RDONLY)) as subject:
        await preflight.check(subject, "direct", remember=True)
    return preflight


def test_no_content_is_read_once_the_update_has_begun(files: Files, tmp_path: Path) -> None:
    async def update() -> None:
        preflight = await checked(files, tmp_path)
        # These cannot be read: EBADF.
        with closing(files.opened(os.O_PATH)) as subject:
            for moment in MOMENTS:
                assert preflight.certain(subject, moment)

    asyncio.run(update())


@pytest.mark.parametrize("changed", [0, 1], ids=["kernel", "initrd"])
def test_a_file_that_changed_is_refused_without_reading_it(files: Files, tmp_path: Path, changed: int) -> None:
    async def update() -> None:
        preflight = await checked(files, tmp_path)
        files.paths[changed].write_bytes(b"another")
        with closing(files.opened(os.O_PATH)) as subject, pytest.raises(Refused, match="modified after the check"):
            preflight.certain(subject, "jumping")

    asyncio.run(update())
