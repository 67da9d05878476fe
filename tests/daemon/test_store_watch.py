"""luod asks systemd what PID 1's store has. `systemctl` of these tests is a program that answers for their PID 1."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luod.daemon import store_watch
from luod.daemon.log import Log
from luod.daemon.store.fd_store import Counted, FdStore
from luod.daemon.store_watch import StoreWatch
from luod.daemon.supervisor import protocol
from luod.daemon.supervisor.custody import Custody
from luod.daemon.supervisor.init_store import InitStore
from luod.daemon.supervisor.requests import Message, Requests
from luod.ipc import framing
from luod.linux import memfd
from luod.testing.waiting import eventually_async
from tests.daemon.supervisor.pid_1 import Pid1

_SYSTEMCTL = """#!/bin/sh
echo "$*" >>"{folder}/asked"
case $1 in
whoami) echo luod.service ;;
show) sleep "$(cat {folder}/late)"; cat "{folder}/answer" ;;
esac
"""


class Systemd:
    """PID 1's store, and the program that tells what it has."""

    def __init__(self, folder: Path, pid_1: Pid1) -> None:
        self.folder, self.pid_1 = folder, pid_1
        (folder / "asked").touch()
        (folder / "late").write_text("0")
        (folder / "systemctl").write_text(_SYSTEMCTL.format(folder=folder))
        (folder / "systemctl").chmod(0o755)
        self.tell()

    def tell(self) -> None:
        """Has the program tell what the store has now."""
        numbers = f"NFileDescriptorStore={len(self.pid_1.kept)}\nFileDescriptorStoreMax={self.pid_1.room}\n"
        (self.folder / "answer").write_text(numbers)

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    with Pid1(tmp_path, 4) as pid_1:
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        yield Systemd(tmp_path, pid_1)


def watched(
    systemd: Systemd, body: Callable[[FdStore, StoreWatch], Awaitable[None]], *, may_change: bool = True
) -> None:
    """Runs `body` with a watch over a store whose requests are executed as by the supervisor."""
    log = Log("supervisor", "error")

    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            custody = Custody(InitStore(systemd.pid_1.manager, systemd.pid_1.room, "11111111"), log)
            requests = Requests(custody)
            moments = itertools.count()

            def work() -> None:
                message, fds = framing.receive(theirs)
                asked = Message(deque(), deque(fds), 0.0)
                answers = [requests.execute(request, asked) for request in protocol.decode(message)]
                custody.settle()
                framing.send(theirs, protocol.encode(*answers))

            def heal() -> None:
                custody.heal(next(moments))
                loop.call_later(0.01, heal)

            loop = asyncio.get_running_loop()
            loop.add_reader(theirs, work)
            heal()
            fds = FdStore(ours, {}, lambda: None)
            run: Any = SimpleNamespace(may_change=lambda: may_change)
            service: Any = SimpleNamespace(before_create=None)
            policy: Any = SimpleNamespace(changed=[])
            watch = StoreWatch(fds, service, policy, run, systemd=True)
            try:
                async with asyncio.timeout(30):
                    await body(fds, watch)
            finally:
                watch.close()
                loop.remove_reader(theirs)
                for name in list(fds):
                    custody.forget(name)
                fds.close()

    asyncio.run(main())


def test_h8_a_lowered_maximum_is_noticed_before_the_next_session_and_healed_when_it_is_raised(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_watch, "_FRESH_SECONDS", 0.0)

    async def body(fds: FdStore, watch: StoreWatch) -> None:
        with memfd("one", 1) as one, memfd("two", 1) as two:
            await fds.store({"held.1": one, "held.2": two})
        systemd.pid_1.lower(1)
        systemd.tell()
        await watch.before_create()
        found = await fds.copies()
        assert (found.missing, found.size, found.room) == (1, 2, 1)
        assert "has 1 of 2 files" in found.fault

        systemd.pid_1.room = 4
        systemd.tell()
        await watch.before_create()

        await eventually_async(lambda: len(systemd.pid_1.kept) == 2, within=30, describe="PID 1 has every file again")
        systemd.tell()
        await watch.before_create()
        assert (await fds.copies()).fault == ""

    watched(systemd, body)


def test_a_reload_asks_at_once(systemd: Systemd) -> None:
    async def body(fds: FdStore, watch: StoreWatch) -> None:
        # whoami, show
        await eventually_async(lambda: len(systemd.asked) >= 2, within=30, describe="PID 1 was asked once")
        before = len(systemd.asked)

        watch._soon.set()

        await eventually_async(lambda: len(systemd.asked) > before, within=30, describe="PID 1 was asked again")
        assert systemd.asked[-1].endswith("FileDescriptorStoreMax -- luod.service")

    async def store_first(fds: FdStore, watch: StoreWatch) -> None:
        with memfd("one", 1) as one:
            await fds.store({"held.1": one})
        systemd.tell()
        watch._soon.set()
        await body(fds, watch)

    watched(systemd, store_first)


def test_nothing_is_asked_while_guests_are_paused(systemd: Systemd) -> None:
    async def body(fds: FdStore, watch: StoreWatch) -> None:
        with memfd("one", 1) as one:
            await fds.store({"held.1": one})
        systemd.tell()
        watch._soon.set()
        await watch.before_create()
        assert systemd.asked == []

    watched(systemd, body, may_change=False)


def test_a_systemd_that_does_not_answer_delays_a_session_by_a_bounded_time(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_watch, "_PATIENCE_SECONDS", 0.1)

    async def body(fds: FdStore, watch: StoreWatch) -> None:
        with memfd("one", 1) as one:
            await fds.store({"held.1": one})
        systemd.tell()
        (systemd.folder / "late").write_text("2")
        began = asyncio.get_running_loop().time()
        await watch.before_create()
        assert asyncio.get_running_loop().time() - began < 1.5

    watched(systemd, body)


_HALF = "NFileDescriptorStore=3\n"


@pytest.mark.parametrize("said", ["", _HALF, "NFileDescriptorStore=[not set]\nFileDescriptorStoreMax=8"])
def test_an_answer_without_both_numbers_is_none(said: str) -> None:
    assert store_watch.read(said, 1) is None


def test_an_answer_has_both_numbers_in_any_order() -> None:
    assert store_watch.read("FileDescriptorStoreMax=8\nNFileDescriptorStore=3\n", 5) == Counted(3, 8, 5)
