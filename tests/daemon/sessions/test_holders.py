"""Who has a session of luod open, besides luod."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from luod.daemon.sessions import holders
from luod.daemon.sessions.holders import Holder, Holders, still_open
from luod.linux import Fd
from luod.testing.tools import for_root
from tests.daemon.free_fds import only

_LOOK = """
import os, sys
from luod.daemon.sessions.holders import open_elsewhere
from luod.linux import Fd
with Fd(int(sys.argv[1])) as session:
    if len(sys.argv) > 3:
        os.setresuid(*[int(sys.argv[3])] * 3)
    found = open_elsewhere({"outgoing.vm": session}, os.getpid(), custodian=int(sys.argv[2]))
    print(found.pids, found.unseen is not None)
"""
_INTERRUPTED = """
import asyncio, os, sys
from luod.daemon.sessions.holders import Holders
from luod.linux import Fd

async def main():
    fds = {"outgoing.vm": Fd(os.memfd_create("private"))}
    holders = Holders(fds)
    first, second, third = [asyncio.create_task(holders.open_elsewhere("outgoing.vm")) for _ in range(3)]
    print(await first)
    private = fds["outgoing.vm"]
    fds["outgoing.vm"] = Fd(int(sys.argv[1]))
    await asyncio.sleep(0)
    second.cancel()
    print(await third)
    for fd in (private, fds["outgoing.vm"]):
        fd.close()

if os.fork():
    os.wait()
else:
    asyncio.run(main())
"""


def looked(source: str, *arguments: object) -> str:
    """Returns what a process prints that has a file open which this one has open too; argument 1 is its fd."""
    with Fd(os.memfd_create("session")) as session:
        command = [sys.executable, "-c", source, str(session.fileno()), *map(str, arguments)]
        return subprocess.run(
            command, pass_fds=(session.fileno(),), check=True, capture_output=True, text=True
        ).stdout.strip()


def test_a_process_that_has_the_sessions_for_luod_does_not_use_them() -> None:
    """PID 1 has every session in its store: a dead guest's must be freed nevertheless."""
    assert looked(_LOOK, 0).startswith(str({"outgoing.vm": os.getpid()}))
    assert looked(_LOOK, os.getpid()).startswith("{}")


def test_a_process_that_luod_may_not_look_into_may_have_the_session() -> None:
    for_root("to look as another user")
    assert looked(_LOOK, 1) == f"{ {'outgoing.vm': os.getpid()} } False"
    assert looked(_LOOK, 1, 65534) == "{} True"


def test_a_search_that_is_not_possible_is_not_the_answer_that_no_process_has_it() -> None:
    for_root("to look into every process")

    async def answers() -> list[object]:
        holders = Holders({"outgoing.vm": session})
        with only(0):
            without = await holders.open_elsewhere("outgoing.vm")
        return [without, await holders.open_elsewhere("outgoing.vm")]

    with Fd(os.memfd_create("session")) as session:
        assert asyncio.run(answers()) == ["unknown", None]


def test_a_search_that_was_interrupted_answers_no_other_request() -> None:
    """The one that waits for it looks itself: the answer of before is about another moment."""
    for_root("to look into every process")
    assert looked(_INTERRUPTED).split() == ["None", str(os.getpid())]


def finding(*found: Holder) -> Callable[[], Awaitable[Holder]]:
    """Returns a look that finds these, one after the other."""
    looks = iter(found)

    async def look() -> Holder:
        return next(looks)

    return look


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "_AGAIN_PAUSES", (0.0, 0.0, 0.0))


@pytest.mark.usefixtures("no_pauses")
def test_a_process_that_is_just_being_started_does_not_have_what_the_one_that_starts_it_has() -> None:
    assert asyncio.run(still_open(finding(215, 216, None))) is None


@pytest.mark.usefixtures("no_pauses")
def test_a_process_that_has_it_open_in_each_look_is_named() -> None:
    assert asyncio.run(still_open(finding(215, 215, 215, 215))) == 215


@pytest.mark.parametrize("found", [None, "unknown"])
def test_what_names_no_process_is_looked_for_once(found: Holder) -> None:
    assert asyncio.run(still_open(finding(found))) == found
