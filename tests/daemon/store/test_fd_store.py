"""`FdStore`, with the other end of its channel in the test: who has which fd, and when the row is written."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from luod.daemon.log import Log
from luod.daemon.store.fd_store import FdStore, SupervisorGone
from luod.daemon.store.journal import Slots
from luod.daemon.store.journal_file import Journal
from luod.daemon.store.registry import Registry
from luod.daemon.store.remains import verify
from luod.daemon.store.schema import FORMAT, OutgoingRow, Record
from luod.daemon.supervisor import protocol
from luod.errors import KernelRefused, SessionExists
from luod.ipc import framing
from luod.linux import Fd


class Supervisor:
    """Acts as `luod`, with /dev/null for each session. `refuse`: names for which it has no room."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.stored: set[str] = set()
        self.sessions: set[str] = set()
        self.refuse: set[str] = set()
        self.probe_error = 0
        self.unread = 0
        """How many messages are refused as a whole, as those whose files did not fit."""
        self.most_files = 0
        self.closing = 0
        """How often the name of a session is taken because its last session is not closed yet."""
        self.messages: list[int] = []
        """The number of requests in each message."""
        channel.setblocking(False)
        asyncio.get_running_loop().add_reader(channel, self.receive)

    def receive(self) -> None:
        message, received = framing.receive(self.channel)
        fds = iter(received)
        requests = protocol.decode(message)
        self.messages.append(len(requests))
        self.most_files = max(self.most_files, len(received))
        if self.unread:
            self.unread -= 1
            for fd in fds:
                fd.close()
            framing.send(self.channel, protocol.encode({"ERRNO": errno.EMFILE, "ALL": 1}))
            return
        answers = []
        for request in requests:
            code, session = self.execute(request, fds)
            removed = "FDSTOREREMOVE" in request
            closing = {"CLOSING": 1} if (code == errno.EEXIST or removed) and self.closing else {}
            answers.append({"ERRNO": code, **closing})
            if closing and not removed:
                self.closing -= 1
                if not self.closing:
                    self.sessions.clear()
            if session is not None:
                framing.send(self.channel, protocol.encode(*answers), (session,))
                os.close(session)
                answers.clear()
        if answers:
            framing.send(self.channel, protocol.encode(*answers))

    def execute(self, request: dict[str, str], fds: Iterator[Fd]) -> tuple[int, int | None]:
        """Returns the errno, and the session if the request opened one."""
        code, session = 0, None
        if (name := request.get("CREATE")) is not None:
            code = errno.EEXIST if name in self.sessions else 0
            if not code:
                session = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
                self.sessions.add(name)
                self.stored.add(f"outgoing.{name}")
        elif (name := request.get("PROBE")) is not None:
            code = self.probe_error or (errno.EEXIST if name in self.sessions else 0)
        elif "FDSTORE" in request:
            next(fds).close()
            code = errno.EMFILE if request["FDNAME"] in self.refuse else 0
            if not code:
                self.stored.add(request["FDNAME"])
        elif "RETRIEVE" in request:
            self.closing -= 1
            code = errno.EINVAL if self.closing else errno.ENOENT
        else:
            self.stored.discard(request["FDNAME"])
            if not self.closing:
                self.sessions.discard(request["FDNAME"].removeprefix("outgoing."))
        return code, session


def run(body: Callable[[FdStore, Supervisor], Awaitable[None]]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            store, supervisor = FdStore(ours, {}, lambda: None), Supervisor(theirs)
            try:
                async with asyncio.timeout(10):
                    await body(store, supervisor)
                    assert set(store) == supervisor.stored
            finally:
                asyncio.get_running_loop().remove_reader(theirs)
                store.close()

    asyncio.run(main())


def null() -> Fd:
    return Fd(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))


def test_what_the_registry_has_not_written_is_written_before_keep_is_asked() -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        at = []
        store.before_request = lambda: at.append(set(supervisor.stored))
        await store.create("vm-1", None)
        await store.drop("outgoing.vm-1")
        assert at == [set(), {"outgoing.vm-1"}]

    run(body)


def test_the_row_is_written_when_keep_has_the_session_and_before_the_caller_has_it() -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        written = []
        fd = await store.create("vm-1", lambda: written.append(set(supervisor.stored)))
        assert written == [{"outgoing.vm-1"}]
        assert store["outgoing.vm-1"] is fd

    run(body)


def test_a_session_without_a_row_ends() -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        def full() -> None:
            raise LookupError("no room in the registry")

        with pytest.raises(LookupError):
            await store.create("vm-1", full)
        assert not supervisor.sessions
        await store.create("vm-1", None)

    run(body)


def test_no_row_is_written_for_a_session_that_the_kernel_refuses() -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        supervisor.sessions.add("vm-1")
        written: list[str] = []
        with pytest.raises(SessionExists):
            await store.create("vm-1", lambda: written.append("row"))
        assert written == []

    run(body)


def test_files_are_stored_all_or_none() -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        supervisor.refuse.add("held.2")
        written: list[str] = []
        with null() as file:
            with pytest.raises(KernelRefused):
                await store.store({"held.1": file, "held.2": file}, lambda: written.append("row"))
            assert not written
            assert not supervisor.stored
            await store.store({"held.1": file, "held.3": file}, lambda: written.append("row"))
            assert not file.closed
        assert written == ["row"]
        await store.drop("held.3", "held.4")
        assert supervisor.stored == {"held.1"}

    run(body)


@pytest.mark.parametrize("turns", range(4))
def test_a_file_that_is_dropped_before_keep_has_it_is_in_neither(turns: int) -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        with null() as file:
            store.store_soon("manifest.vm-1", file, lambda error: pytest.fail(str(error)))
        assert "manifest.vm-1" in store
        for _ in range(turns):
            await asyncio.sleep(0)
        await store.drop("manifest.vm-1")
        await store.drop("manifest.vm-1")
        with null() as file:  # everything that was asked of the supervisor is done once this is
            await store.store({"jump": file})
        assert supervisor.stored == {"jump"}

    run(body)


def test_a_name_that_is_free_is_free_afterwards() -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        supervisor.sessions.add("vm-1")
        assert await store.open_elsewhere("vm-1")
        supervisor.sessions.clear()
        assert not await store.open_elsewhere("vm-1")
        assert not supervisor.sessions

    run(body)


@pytest.mark.parametrize("error", [errno.ENFILE, errno.ENOMEM, errno.EBUSY, errno.EIO], ids=errno.errorcode.get)
def test_a_session_counts_as_open_where_the_kernel_does_not_tell(error: int) -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        supervisor.probe_error = error
        assert await store.open_elsewhere("vm-1")

    run(body)


def test_a_name_is_free_once_pid_1_has_closed_its_copy() -> None:
    """A moment after luod has removed the session: for a new one, and for the question whether it is open."""

    async def body(store: FdStore, supervisor: Supervisor) -> None:
        supervisor.sessions.add("vm-1")
        supervisor.closing = 3
        await store.create("vm-1", None)
        await store.drop("outgoing.vm-1")
        supervisor.sessions.add("vm-1")
        supervisor.closing = 3
        assert not await store.open_elsewhere("vm-1")

    run(body)


@pytest.mark.parametrize("direction", ["outgoing", "incoming"])
def test_h9_a_release_waits_until_pid_1_has_closed_its_copy(direction: str) -> None:
    """As long as it is open, the kernel refuses the session's files in another one."""

    async def body(store: FdStore, supervisor: Supervisor) -> None:
        with null() as session:
            await store.store({f"{direction}.vm-1": session})
        supervisor.sessions.add("vm-1")
        supervisor.closing = 3
        await store.drop(f"{direction}.vm-1")

        await store.until_closed(f"{direction}.vm-1")

        assert supervisor.closing == 0

    run(body)


def test_a_release_does_not_wait_for_a_copy_that_pid_1_never_had() -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        await store.create("vm-1", None)
        await store.drop("outgoing.vm-1")
        before = len(supervisor.messages)

        await store.until_closed("outgoing.vm-1")

        assert len(supervisor.messages) == before

    run(body)


def test_a_release_does_not_wait_long_for_a_session_that_a_client_has_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luod.daemon.store.fd_store._CLOSED_SECONDS", 0.05)

    async def body(store: FdStore, supervisor: Supervisor) -> None:
        with null() as session:
            await store.store({"outgoing.vm-1": session})
        supervisor.sessions.add("vm-1")
        supervisor.closing = 1000
        await store.drop("outgoing.vm-1")
        began = asyncio.get_running_loop().time()

        await store.until_closed("outgoing.vm-1")

        assert 0.04 < asyncio.get_running_loop().time() - began < 1.0

    run(body)


def test_a_name_that_is_taken_for_long_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luod.daemon.store.fd_store._CLOSING_SECONDS", 0.05)

    async def body(store: FdStore, supervisor: Supervisor) -> None:
        supervisor.sessions.add("vm-1")
        supervisor.closing = 1000
        with pytest.raises(SessionExists):
            await store.create("vm-1", None)

    run(body)


def test_a_session_that_pid_1_had_is_not_lost_with_the_registrys_memory(tmp_path: Path) -> None:
    """After a restart of luod with its file alone. A session that no process has any more is lost."""

    async def body(store: FdStore, supervisor: Supervisor) -> None:
        with null() as session:
            await store.store({"outgoing.vm": session})
        rows = (OutgoingRow("vm", 1000), OutgoingRow("gone", 1000))
        with closing(Slots.new()) as memory, closing(Journal(str(tmp_path))) as file:
            registry = Registry(Record(FORMAT, 1, "boot", rows, instance="one"), memory, file, Log("test", "error"))
            await verify(store, registry, Log("test", "error"))
        assert [row.name for row in registry.record.outgoing] == ["vm"]
        assert supervisor.stored == {"outgoing.vm"}

    run(body)


def test_nothing_is_stored_once_keep_is_gone() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lost = asyncio.Event()
        store = FdStore(ours, {}, lost.set)
        theirs.close()
        async with asyncio.timeout(10):
            await lost.wait()
        with pytest.raises(SupervisorGone):
            await store.create("vm-1", lambda: pytest.fail("a row without a session"))
        store.close()

    asyncio.run(main())


def test_what_is_asked_while_keep_works_goes_in_one_message() -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        supervisor.sessions.add("vm-3")
        with null() as file:
            results = await asyncio.gather(
                *(store.create(f"vm-{number}", None) for number in range(6)),
                store.store({"held.1": file}),
                return_exceptions=True,
            )
        assert supervisor.messages == [1, 6]
        assert [type(result) for result in results] == [Fd, Fd, Fd, SessionExists, Fd, Fd, type(None)]
        links = {name: os.readlink(f"/proc/self/fd/{fd.fileno()}") for name, fd in store.items()}
        assert links == dict.fromkeys([*(f"outgoing.vm-{number}" for number in (0, 1, 2, 4, 5)), "held.1"], "/dev/null")

    run(body)


def test_a_removal_in_a_message_that_keep_could_not_read_is_asked_again() -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        await store.create("vm-1", None)
        await store.create("vm-2", None)
        supervisor.unread = 2
        with null() as file:
            store.drop_soon("outgoing.vm-1")
            results = await asyncio.gather(
                store.drop("outgoing.vm-2"), store.store({"held.1": file}), return_exceptions=True
            )
        assert isinstance(results[1], KernelRefused)
        assert supervisor.stored == set()

    run(body)


def test_many_files_go_in_messages_that_fit() -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        with null() as file:
            await asyncio.gather(*(store.store({f"held.{number}": file}) for number in range(100)))
        assert supervisor.most_files <= 16

    run(body)


def test_serve_ends_when_keep_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fds are other than the supervisor's then."""

    def fails(*_: object) -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ended: list[str] = []
        with theirs:
            store = FdStore(ours, {"outgoing.vm-1": null()}, lambda: ended.append("serve"))
            monkeypatch.setattr(framing, "send", fails)
            with pytest.raises(SupervisorGone):
                await store.drop("outgoing.vm-1")
            store.close()
        assert ended == ["serve"]

    asyncio.run(main())


def test_a_file_that_is_dropped_soon_is_dropped_before_what_is_asked_next() -> None:
    async def body(store: FdStore, supervisor: Supervisor) -> None:
        await store.create("vm-1", None)
        store.drop_soon("outgoing.vm-1", "outgoing.vm-2")
        assert "outgoing.vm-1" not in store
        await store.create("vm-1", None)

    run(body)
