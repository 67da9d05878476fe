"""What a participant makes of a luod whose answers fail while the connection that follows is well.

Both surfaces are the same here, so each test asks both. test_participant_machine.py
has them with a real luod.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import luod
from luod.manifest import Entry
from luod.participant import PlannedFile
from luod.testing.waiting import eventually_async
from tests.impostor import Answer, Impostor, reply

RAM = PlannedFile("vm", 4096, "preparing")
REFUSED = Answer(
    reply({"state": "preparing", "message": "its files are being preserved"}, error="io.luod.Updates.WrongPhase")
)
NO_ANSWER = Answer()
"""The connection is closed, as by a luod without room for it, or one that is killed."""


class Session:
    """A session as a participant sees it; the caller adds files."""

    name = "vm"

    def __init__(self) -> None:
        self.contents: tuple[Entry, ...] = ()

    def preserve(self, name: str) -> None:
        self.contents += (Entry(len(self.contents), name, "memfd", 4096, 4096, 0),)


def blocking(path: str, steps: Callable[[Any, Any], Any], session: Session, planned: tuple[PlannedFile, ...]) -> Any:
    async def awaited(value: Any) -> Any:
        return value

    participant = luod.Participant("vm", [session], planned=planned, client=luod.Client(path, timeout=10))
    with participant:
        return asyncio.run(steps(participant, awaited))


def with_asyncio(
    path: str, steps: Callable[[Any, Any], Any], session: Session, planned: tuple[PlannedFile, ...]
) -> Any:
    async def awaited(value: Any) -> Any:
        return await value

    async def run() -> Any:
        client = luod.AsyncClient(path, timeout=10)
        async with luod.AsyncParticipant("vm", [session], planned=planned, client=client) as participant:
            return await steps(participant, awaited)

    return asyncio.run(run())


@pytest.fixture(params=[blocking, with_asyncio], ids=["blocking", "asyncio"])
def take_part(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs steps with a participant, which has declared once."""
    surface: Callable[..., Any] = request.param
    return surface


def following(*events: str) -> Answer:
    """Returns luod's side of the connection that follows: all events are there to be read at once."""
    first = reply({"event": "following", "participant": "t", "state": "idle"}, continues=True)
    told = [reply({"event": event, "generation": 1, "deadline": 30}, continues=True) for event in events]
    return Answer(first, *told, hold=True)


def asked(impostor: Impostor) -> list[str]:
    return [call["method"].rpartition(".")[2] for call in impostor.calls]


def test_a_declare_refused_while_granted_is_not_repeated_while_guests_are_frozen(
    tmp_path: Path, take_part: Callable[..., Any]
) -> None:
    session = Session()

    async def steps(participant: Any, awaited: Any) -> list[str]:
        kinds = []
        for _ in range(4):
            phase = await awaited(participant.next())
            kinds.append(phase.kind)
            if phase.kind == "granted":
                await awaited(participant.declare([session]))
        return kinds

    told = ("preparing", "granted", "freezing", "jumping")
    with Impostor(tmp_path, following(*told), Answer(reply()), Answer(reply()), REFUSED, *[NO_ANSWER] * 9) as impostor:
        assert take_part(impostor.path, steps, session, (RAM,)) == list(told)
    assert asked(impostor) == ["Follow", "Declare", "Declare", "Declare"]


def test_a_declare_without_an_answer_is_repeated_and_the_connection_that_follows_is_read_on(
    tmp_path: Path, take_part: Callable[..., Any]
) -> None:
    session = Session()

    async def steps(participant: Any, awaited: Any) -> list[str]:
        await awaited(participant.declare([session], planned=[RAM]))
        return [(await awaited(participant.next())).kind for _ in range(3)]

    told = ("preparing", "granted", "freezing")
    answers = (Answer(reply()), *[NO_ANSWER] * 4)
    with Impostor(tmp_path, following(*told), *answers) as impostor:
        assert take_part(impostor.path, steps, session, ()) == list(told)
    assert asked(impostor) == ["Follow", *["Declare"] * 5]


def ready_with_memory(session: Session) -> Callable[[Any, Any], Any]:
    """Returns steps that preserve memory, and vote `ready` in the first phase. Their result is whether luod took it."""

    async def steps(participant: Any, awaited: Any) -> bool:
        session.preserve("ram")
        phase = await awaited(participant.next())
        voted: bool = await awaited(phase.ready())
        return voted

    return steps


def test_files_that_luod_could_not_be_told_of_are_declared_before_the_vote(
    tmp_path: Path, take_part: Callable[..., Any]
) -> None:
    session = Session()
    answers = (Answer(reply()), NO_ANSWER, Answer(reply()), Answer(reply()))
    with Impostor(tmp_path, following("preparing"), *answers) as impostor:
        assert take_part(impostor.path, ready_with_memory(session), session, ())
    assert asked(impostor) == ["Follow", "Declare", "Declare", "Declare", "Vote"]
    assert impostor.calls[3]["parameters"]["sessions"][0]["files"][0]["name"] == "ram"


def test_without_luods_answer_to_what_it_carries_there_is_no_vote(
    tmp_path: Path, take_part: Callable[..., Any]
) -> None:
    session = Session()

    with Impostor(tmp_path, following("preparing"), Answer(reply()), NO_ANSWER, NO_ANSWER) as impostor:
        assert not take_part(impostor.path, ready_with_memory(session), session, ())
    assert "Vote" not in asked(impostor)


NO_SUCH_SESSION = Answer(reply({"name": "vm", "message": "gone", "hint": ""}, error="io.luod.Updates.NoSuchSession"))


def until(*events: str) -> Answer:
    """Returns luod's side of a connection that follows, which luod closes after these events."""
    return Answer(*following(*events).chunks)


@pytest.mark.parametrize("error", ["io.luod.TooManyConnections", "io.luod.Updates.Refused", "io.luod.InternalError"])
def test_a_luod_that_does_not_let_it_follow_again_is_waited_for(
    tmp_path: Path, take_part: Callable[..., Any], error: str
) -> None:
    """Such as an older luod, which refuses all calls until the newer one is installed again."""

    async def steps(participant: Any, awaited: Any) -> str:
        return str((await awaited(participant.next())).kind)

    refused = Answer(reply({"message": "not now", "hint": ""}, error=error))
    answers = (until(), Answer(reply()), refused, refused, following("preparing"), *[Answer(reply())] * 2)
    with Impostor(tmp_path, *answers) as impostor:
        assert take_part(impostor.path, steps, Session(), ()) == "preparing"
    assert asked(impostor)[:5] == ["Follow", "Declare", "Follow", "Follow", "Follow"]


def test_a_luod_that_does_not_let_it_follow_at_first_is_an_error(tmp_path: Path, take_part: Callable[..., Any]) -> None:
    refused = Answer(reply({"message": "no valid name", "hint": ""}, error="io.luod.Updates.Refused"))
    with Impostor(tmp_path, refused) as impostor, pytest.raises(luod.Refused, match="no valid name"):
        take_part(impostor.path, None, Session(), ())


def test_an_error_of_luods_on_the_connection_that_follows_ends_it_and_the_guest_is_resumed(
    tmp_path: Path, take_part: Callable[..., Any]
) -> None:
    async def steps(participant: Any, awaited: Any) -> list[str]:
        return [(await awaited(participant.next())).kind for _ in range(3)]

    failed = Answer(*until("preparing", "freezing").chunks, reply({"message": "bug"}, error="io.luod.InternalError"))
    answers = (failed, Answer(reply()), following(), Answer(reply()))
    with Impostor(tmp_path, *answers) as impostor:
        assert take_part(impostor.path, steps, Session(), ()) == ["preparing", "freezing", "cancelled"]


def test_a_guest_that_waits_for_the_kexec_is_resumed_when_a_luod_without_an_update_is_back(
    tmp_path: Path, take_part: Callable[..., Any]
) -> None:
    """No event need follow: the luod that is back may not know of the update."""
    told = ("preparing", "freezing", "jumping")

    async def steps(participant: Any, awaited: Any) -> list[str]:
        return [(await awaited(participant.next())).kind for _ in range(4)]

    with Impostor(tmp_path, until(*told), Answer(reply()), following(), Answer(reply())) as impostor:
        assert take_part(impostor.path, steps, Session(), ()) == [*told, "cancelled"]


def test_a_guest_that_waits_is_resumed_before_the_error_of_a_luod_that_lost_its_session(
    tmp_path: Path, take_part: Callable[..., Any]
) -> None:
    async def steps(participant: Any, awaited: Any) -> list[str]:
        kinds = [(await awaited(participant.next())).kind for _ in range(4)]
        with pytest.raises(luod.NoSuchSession):
            await awaited(participant.next())
        return kinds

    told = ("preparing", "freezing", "jumping")
    with Impostor(tmp_path, until(*told), Answer(reply()), following(), NO_SUCH_SESSION) as impostor:
        assert take_part(impostor.path, steps, Session(), ()) == [*told, "cancelled"]


def test_events_are_read_on_in_a_program_that_goes_on_though_luod_lost_its_session(
    tmp_path: Path, take_part: Callable[..., Any]
) -> None:
    async def steps(participant: Any, awaited: Any) -> list[str]:
        with pytest.raises(luod.NoSuchSession):
            await awaited(participant.next())
        return [(await awaited(participant.next())).kind for _ in range(2)]

    answers = (until(), Answer(reply()), following("preparing", "lost"), NO_SUCH_SESSION, *[Answer(reply())] * 2)
    with Impostor(tmp_path, *answers) as impostor:
        assert take_part(impostor.path, steps, Session(), ()) == ["preparing", "lost"]


def test_a_forked_child_does_not_follow(tmp_path: Path, take_part: Callable[..., Any]) -> None:
    """luod takes a participant to be alive while a copy of its connection is open."""

    async def steps(participant: Any, awaited: Any) -> bool:
        child = os.fork()
        if child == 0:
            os._exit(participant.fileno() != -1)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        return bool(participant.fileno() != -1 and status == 0)

    with Impostor(tmp_path, following(), Answer(reply())) as impostor:
        assert take_part(impostor.path, steps, Session(), ())


def test_a_participant_that_a_signal_closes_ends_its_loop(tmp_path: Path) -> None:
    with Impostor(tmp_path, following(), Answer(reply())) as impostor:
        participant = luod.Participant("vm", [Session()], client=luod.Client(impostor.path, timeout=10))
        before = signal.signal(signal.SIGALRM, lambda *_: participant.close())
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        try:
            assert list(participant) == []
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        with pytest.raises(luod.BadInput, match="closed"):
            participant.next()


def test_a_task_that_waits_for_a_phase_ends_when_the_participant_is_closed(tmp_path: Path) -> None:
    async def run(path: str) -> tuple[object, bytes]:
        participant = luod.AsyncParticipant("vm", [Session()], client=luod.AsyncClient(path, timeout=10))
        async with participant:
            waiting = asyncio.create_task(participant.next())
            await eventually_async(lambda: participant._reading, describe="the task reads from the connection")
            participant.close()
            phase = await asyncio.wait_for(waiting, 10)
            assert participant.fileno() == -1
        ours, theirs = socket.socketpair()  # one of them has the fd that the connection had
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            loop = asyncio.get_running_loop()
            reading = [asyncio.create_task(loop.sock_recv(each, 1)) for each in (ours, theirs)]
            await asyncio.sleep(0)
            await loop.sock_sendall(ours, b"x")
            await loop.sock_sendall(theirs, b"y")
            return phase, b"".join(await asyncio.gather(*reading))

    with Impostor(tmp_path, following(), Answer(reply())) as impostor:
        assert asyncio.run(run(impostor.path)) == (None, b"yx")


def without_fds(call: Callable[[], Any]) -> Any:
    """Makes a call in which the process can open no fd."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        return call()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_an_fd_a_call_raises_that_luod_cannot_be_reached() -> None:
    with pytest.raises(luod.DaemonUnreachable, match="Too many open files"):
        without_fds(luod.Client("/run/none").sessions)


def test_a_veto_without_an_fd_does_not_replace_the_error_of_the_block(tmp_path: Path) -> None:
    failure = OSError("the device would not stop")

    def failed(phase: luod.Phase) -> None:
        with phase:
            raise failure

    with Impostor(tmp_path, following("preparing", "cancelled"), Answer(reply())) as impostor:
        participant = luod.Participant("vm", [Session()], client=luod.Client(impostor.path, timeout=10))
        with participant:
            preparing = participant.next()
            assert preparing is not None
            without_fds(lambda: failed(preparing))
            cancelled = participant.next()
            assert cancelled is not None
            with pytest.raises(OSError, match="the device would not stop"), cancelled:
                pass
