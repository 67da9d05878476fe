"""The process that lends a guest's RAM to QEMU's user has nothing else of the agent's."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from luod.agents.libvirt import paths
from luod.agents.libvirt.lent import User, lent
from luod.linux import memfd, memory_identity
from luod.testing.tools import for_root

NOBODY = User(65534, 65534)


def test_it_has_the_memory_and_nothing_of_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for_root("since QEMU has a user of its own")
    monkeypatch.setattr(paths, "FOLDER", str(tmp_path))

    async def looked_at() -> None:
        with memfd("ram", 0) as ram:
            async with lent(ram, NOBODY, "web") as path:
                target = os.readlink(path)
                process = Path(target).parents[1]
                with open(target, "rb") as opened:
                    assert memory_identity(opened) == memory_identity(ram)
                files = {int(entry.name): os.readlink(entry) for entry in (process / "fd").iterdir()}
                assert {files.pop(number) for number in (0, 1, 2)} == {"/dev/null"}
                assert [os.readlink(target)] == list(files.values())
                assert (process / "environ").read_bytes() == b""
                assert os.readlink(process / "cwd") == "/"
                assert os.getsid(int(process.name)) == int(process.name)
                assert process.stat().st_uid == NOBODY.uid
            assert not os.path.lexists(path)

    asyncio.run(looked_at())
