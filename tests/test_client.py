"""What a program gets from `luod.Client` and `luod.AsyncClient` when the other end is not as it should be.

Both surfaces are the same here, so each test asks both. With a real luod they are tested in test_client_machine.py;
what only asyncio has is in test_aio.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

import luod
from luod.errors import (
    BadInput,
    Busy,
    CallFailed,
    DaemonUnreachable,
    KernelRefused,
    LuodError,
    NoSuchSession,
    ProtocolError,
    Refused,
    SessionExists,
)
from luod.linux import memfd
from tests.impostor import Answer, Impostor, reply

Ask = Callable[..., Any]


def ask_blocking(path: str, method: str, *arguments: Any, timeout: float = 10, **options: Any) -> Any:
    return getattr(luod.Client(path, timeout=timeout), method)(*arguments, **options)


def ask_with_asyncio(path: str, method: str, *arguments: Any, timeout: float = 10, **options: Any) -> Any:
    async def run() -> Any:
        client = luod.AsyncClient(path, timeout=timeout)
        return await getattr(client, method)(*arguments, **options)

    return asyncio.run(run())


@pytest.fixture(params=[ask_blocking, ask_with_asyncio], ids=["blocking", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Calls one method of a new client, returns what it returns."""
    surface: Ask = request.param
    return surface


ENTRY: Final = {"name": "vm", "owner": 1000, "direction": "outgoing", "state": "held"}

NOT_ANSWERS: Final = {
    "not JSON": b"hello\0",
    "nothing": b"\0",
    "not UTF-8": b'{"parameters": {"sessions": ["\xff\xfe"]}}\0',
    "an array": b"[]\0",
    "a number": b"17\0",
    "nested deeply": b"[" * 200_000 + b"\0",
    "parameters an array": b'{"parameters": [1]}\0',
    "the error a number": b'{"error": 5}\0',
    "no sessions": reply({}),
    "sessions null": reply({"sessions": None}),
    "sessions an object": reply({"sessions": {}}),
    "an entry a string": reply({"sessions": ["vm"]}),
    "an entry without owner": reply({"sessions": [{**ENTRY, "owner": None}]}),
    "the owner true": reply({"sessions": [{**ENTRY, "owner": True}]}),
    "the owner a string": reply({"sessions": [{**ENTRY, "owner": "root"}]}),
    "the name a number": reply({"sessions": [{**ENTRY, "name": 5}]}),
    "more to come": reply({"sessions": []}, continues=True),
}


@pytest.mark.parametrize("answer", NOT_ANSWERS.values(), ids=NOT_ANSWERS)
def test_what_is_no_answer_is_a_protocol_error(tmp_path: Path, ask: Ask, answer: bytes) -> None:
    with Impostor(tmp_path, Answer(answer)) as impostor, pytest.raises(ProtocolError) as caught:
        ask(impostor.path, "sessions")
    assert caught.value.hint


def test_an_answer_without_end_is_given_up(tmp_path: Path, ask: Ask) -> None:
    with (
        Impostor(tmp_path, Answer(*[b"x" * (1 << 20)] * 64, hold=True)) as impostor,
        pytest.raises(ProtocolError, match="longer than"),
    ):
        ask(impostor.path, "sessions")


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_an_answer_may_come_in_pieces(tmp_path: Path, ask: Ask, pieces: int) -> None:
    whole = reply({"sessions": [ENTRY]})
    size = max(len(whole) // pieces, 1)
    chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
    with Impostor(tmp_path, Answer(*chunks)) as impostor:
        assert ask(impostor.path, "sessions") == (luod.SessionInfo("vm", 1000, "outgoing", "held"),)
    assert impostor.calls == [{"method": "io.luod.Sessions.List"}]


def test_members_a_newer_luod_adds_are_no_harm(tmp_path: Path, ask: Ask) -> None:
    answer = reply({"sessions": [{**ENTRY, "generation": 4, "state": "torn"}], "more": 1}, version=2)
    with Impostor(tmp_path, Answer(answer)) as impostor:
        assert [session.state for session in ask(impostor.path, "sessions")] == ["torn"]


@pytest.mark.parametrize("method", ["create", "retrieve"])
@pytest.mark.parametrize("index", [None, 1, -1, 2**70, True, "0", 0.0, [0]])
def test_an_index_without_fd_is_a_protocol_error(tmp_path: Path, ask: Ask, method: str, index: object) -> None:
    with open(os.devnull, "rb") as null:
        answer = Answer(reply({"session_fd": index}), fds=[null.fileno()])
        with Impostor(tmp_path, answer) as impostor, pytest.raises(ProtocolError):
            ask(impostor.path, method, "vm")


@pytest.mark.parametrize("method", ["create", "retrieve"])
@pytest.mark.parametrize("target", [os.devnull, "/dev/zero", __file__])
def test_an_fd_that_is_no_session_is_a_protocol_error(tmp_path: Path, ask: Ask, method: str, target: str) -> None:
    with open(target, "rb") as file:
        answer = Answer(reply({"session_fd": 0}), fds=[file.fileno()])
        with Impostor(tmp_path, answer) as impostor, pytest.raises(ProtocolError, match="not a session"):
            ask(impostor.path, method, "vm")


def test_fds_nobody_asked_for_are_closed(tmp_path: Path, ask: Ask) -> None:
    with open(os.devnull, "rb") as null:
        crowd = [null.fileno()] * 253
        answers = [
            Answer(reply({"sessions": []}), fds=crowd),
            Answer(reply({"sessions": []}) + reply({"sessions": []}), fds=crowd),
            Answer(reply(error="io.luod.Sessions.Busy"), fds=crowd),
            Answer(b"no JSON\0", fds=crowd),
            Answer(b"half an answer", fds=crowd),
        ]
        before = len(os.listdir("/proc/self/fd"))
        with Impostor(tmp_path, *answers) as impostor:
            assert ask(impostor.path, "sessions") == ()
            assert ask(impostor.path, "sessions") == ()
            for failure in (CallFailed, ProtocolError, DaemonUnreachable):
                with pytest.raises(failure):
                    ask(impostor.path, "sessions")
        assert len(os.listdir("/proc/self/fd")) == before


ERRORS: Final[list[tuple[str, dict[str, Any], type[LuodError], int | None]]] = [
    ("io.luod.Sessions.NoSuchSession", {"name": "vm"}, NoSuchSession, 2),
    ("io.luod.Sessions.SessionExists", {"name": "vm"}, SessionExists, 17),
    ("io.luod.Sessions.InvalidName", {"name": "vm", "reason": "too odd"}, BadInput, None),
    ("io.luod.Sessions.KernelRefused", {"call": "open", "errno": 5, "meaning": "broken"}, KernelRefused, 5),
    ("io.luod.Sessions.KernelRefused", {"call": 7, "errno": "x"}, KernelRefused, 5),
    ("io.luod.Sessions.Refused", {}, Refused, None),
    ("io.luod.Sessions.Busy", {}, Busy, None),
    ("io.luod.Sessions.OfTheFuture", {}, CallFailed, None),
    ("org.varlink.service.PermissionDenied", {}, CallFailed, None),
    ("org.varlink.service.MethodNotFound", {"method": "io.luod.Sessions.Create"}, CallFailed, None),
]


@pytest.mark.parametrize(("name", "parameters", "kind", "code"), ERRORS)
def test_luods_errors_are_typed(
    tmp_path: Path, ask: Ask, name: str, parameters: dict[str, Any], kind: type[LuodError], code: int | None
) -> None:
    parameters = {**parameters, "hint": "try again"}
    with Impostor(tmp_path, Answer(reply(parameters, error=name))) as impostor, pytest.raises(LuodError) as caught:
        ask(impostor.path, "create", "vm")
    assert type(caught.value) is kind
    assert getattr(caught.value, "errno", None) == code
    assert str(caught.value)
    if isinstance(caught.value, CallFailed):
        assert caught.value.name == name


@pytest.mark.parametrize("chunks", [(), (b'{"parameters": {}',)], ids=["at once", "in the middle"])
def test_a_luod_that_dies_is_unreachable(tmp_path: Path, ask: Ask, chunks: tuple[bytes, ...]) -> None:
    with (
        Impostor(tmp_path, Answer(*chunks)) as impostor,
        pytest.raises(DaemonUnreachable, match="closed the connection"),
    ):
        ask(impostor.path, "sessions")


CROWDED: Final = reply({"message": "uid 0 has as many as it may: 1", "hint": ""}, error="io.luod.TooManyConnections")
NOT_RECEIVED: Final = reply({"message": "it ended", "hint": ""}, error="io.luod.FilesNotReceived")


@pytest.mark.parametrize("refused", [CROWDED, NOT_RECEIVED])
def test_a_call_that_luod_had_no_room_for_is_made_again(tmp_path: Path, ask: Ask, refused: bytes) -> None:
    with Impostor(tmp_path, Answer(refused), Answer(refused), Answer(reply({"sessions": []}))) as impostor:
        assert ask(impostor.path, "sessions") == ()
    assert len(impostor.calls) == 3


def test_who_is_not_let_in_for_long_is_told(tmp_path: Path, ask: Ask) -> None:
    with Impostor(tmp_path, *[Answer(CROWDED)] * 100) as impostor, pytest.raises(CallFailed, match="as many as it may"):
        ask(impostor.path, "sessions", timeout=0.2)


@pytest.mark.parametrize("chunks", [(), (b'{"parameters": {}',)], ids=["nothing", "half an answer"])
def test_a_luod_that_says_nothing_is_given_up_in_time(tmp_path: Path, ask: Ask, chunks: tuple[bytes, ...]) -> None:
    with Impostor(tmp_path, Answer(*chunks, hold=True)) as impostor, pytest.raises(DaemonUnreachable, match="in time"):
        ask(impostor.path, "sessions", timeout=0.2)
    assert impostor.hung_up.is_set()


def test_a_luod_that_accepts_nobody_is_given_up_in_time(tmp_path: Path, ask: Ask) -> None:
    path = str(tmp_path / "luod.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(path)
        listener.listen(0)
        waiting.connect(path)
        with pytest.raises(DaemonUnreachable, match="in time"):
            ask(path, "sessions", timeout=0.2)


def test_signals_while_a_full_luod_accepts_no_connection_do_not_fail_the_call(tmp_path: Path, ask: Ask) -> None:
    """A vote that fails at once would cancel the update only at its deadline."""
    path = str(tmp_path / "luod.sock")
    answered = threading.Event()

    def accept_late(listener: socket.socket) -> None:
        listener.accept()[0].close()
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(reply({"sessions": []}))
        answered.set()

    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
            listener.bind(path)
            listener.listen(0)
            waiting.connect(path)
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            later = threading.Timer(0.3, accept_late, [listener])
            later.start()
            try:
                assert ask(path, "sessions") == ()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                if not answered.wait(1):
                    socket.socket(socket.AF_UNIX).connect_ex(path)
                later.join(10)
    finally:
        signal.signal(signal.SIGALRM, before)


NOT_STASHED: Final = reply({"name": "vm", "message": "none", "hint": ""}, error="io.luod.Sessions.NotStashed")


@pytest.mark.parametrize("again", [Answer(NOT_STASHED), Answer(), Answer(CROWDED)])
def test_files_are_kept_that_luod_may_have_closed_without_an_answer(tmp_path: Path, ask: Ask, again: Answer) -> None:
    """They may be the last fds of a guest's memory."""
    with memfd("ram", 3) as ram:
        given = Answer(reply({"files": [{"name": "ram", "file_fd": 0}]}), fds=[ram.fileno()])
        with Impostor(tmp_path, given, Answer(), *[again] * 100) as impostor:
            files = ask(impostor.path, "unstash", "vm", timeout=0.2)
    assert os.fstat(files["ram"].fileno()).st_size == 3
    files["ram"].close()


def test_files_are_closed_that_luod_still_has(tmp_path: Path, ask: Ask) -> None:
    with memfd("ram", 3) as ram:
        given = Answer(reply({"files": [{"name": "ram", "file_fd": 0}]}), fds=[ram.fileno()])
        refused = Answer(reply({"message": "no", "hint": ""}, error="io.luod.Sessions.Refused"))
        with Impostor(tmp_path, given, refused) as impostor, pytest.raises(Refused):
            ask(impostor.path, "unstash", "vm")


def test_nobody_there_is_said(tmp_path: Path, ask: Ask) -> None:
    with pytest.raises(DaemonUnreachable, match="there is no luod at") as caught:
        ask(str(tmp_path / "nothing"), "sessions")
    assert "start `luod`" in caught.value.hint
    left = str(tmp_path / "left")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(left)
    with pytest.raises(DaemonUnreachable, match="no process listens at"):
        ask(left, "sessions")


@pytest.mark.parametrize(
    "path", ["", "/" + "x" * 200, "/tmp/with\0nul", "/etc/passwd/luod.sock", "/tmp", "/\udcff\ud800"]
)
def test_a_path_that_cannot_be_a_socket_is_unreachable(ask: Ask, path: str) -> None:
    with pytest.raises(DaemonUnreachable):
        ask(path, "sessions")


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_is_positive(tmp_path: Path, ask: Ask, timeout: float) -> None:
    with Impostor(tmp_path) as impostor, pytest.raises(BadInput, match="timeout"):
        ask(impostor.path, "sessions", timeout=timeout)


@pytest.mark.parametrize("name", ["", "x" * 64, "x" * 100_000, "a\0", "\ud800", b"x", 5, None])
@pytest.mark.parametrize("method", ["create", "retrieve"])
def test_what_is_no_name_is_refused_before_luod_is_asked(tmp_path: Path, ask: Ask, method: str, name: Any) -> None:
    with Impostor(tmp_path) as impostor, pytest.raises(BadInput) as caught:
        ask(impostor.path, method, name)
    assert len(str(caught.value)) < 200
    assert impostor.calls == []


def test_discard_releases_what_the_workload_has_in_both_directions(tmp_path: Path, ask: Ask) -> None:
    listed = [{**ENTRY, "direction": "incoming", "state": "torn"}, {**ENTRY, "name": "other", "direction": "incoming"}]
    given_up = Answer(reply({"released": ["vm#3", "vm"], "open": []}))
    with Impostor(tmp_path, given_up, Answer(reply({"sessions": listed})), Answer(reply())) as impostor:
        assert ask(impostor.path, "discard", "vm") == ("vm#3", "vm", "vm")
    assert [(call["method"].rpartition(".")[2], call.get("parameters")) for call in impostor.calls] == [
        ("GiveUp", {"name": "vm", "direction": "outgoing"}),
        ("List", {"workload": "vm"}),
        ("Release", {"name": "vm", "direction": "incoming", "outcome": "given_up"}),
    ]


def test_discard_loses_nothing_when_a_participant_lives(tmp_path: Path, ask: Ask) -> None:
    refused = reply({"message": "in use", "hint": ""}, error="io.luod.Sessions.Refused")
    with Impostor(tmp_path, Answer(refused)) as impostor, pytest.raises(Refused):
        ask(impostor.path, "discard", "vm")
    assert len(impostor.calls) == 1


def missing(error: str, message: str, name: str = "vm") -> dict[str, object]:
    """Returns the answer about a session that RetrieveMany or CreateMany does not return."""
    return {"name": name, "failure": {"error": f"io.luod.Sessions.{error}", "message": message, "hint": "old"}}


@pytest.mark.parametrize("method", ["create_many", "retrieve_many"])
def test_of_many_each_has_its_own_error(tmp_path: Path, ask: Ask, method: str) -> None:
    kernels = {"error": "io.luod.Sessions.KernelRefused", "call": "ioctl", "errno": 12, "meaning": "no memory"}
    answer = reply({"sessions": [missing("NoSuchSession", "none", "a"), {"name": "b", "failure": kernels}]})
    with Impostor(tmp_path, Answer(answer)) as impostor:
        found = ask(impostor.path, method, ["a", "b", "a"])
    assert {name: type(error) for name, error in found.items()} == {"a": NoSuchSession, "b": KernelRefused}
    assert found["b"].errno == 12


@pytest.mark.parametrize(
    "sessions", [None, [], [7], [{"name": "b"}], [{"name": "a", "session_fd": 3}], [{"name": "a", "failure": "no"}]]
)
def test_what_is_no_answer_about_many_is_the_error_of_each(tmp_path: Path, ask: Ask, sessions: object) -> None:
    with Impostor(tmp_path, Answer(reply({"sessions": sessions}))) as impostor:
        assert [type(error) for error in ask(impostor.path, "retrieve_many", ["a"]).values()] == [ProtocolError]


def test_many_names_take_few_calls_and_those_that_luod_gave_before_it_died_are_kept(tmp_path: Path, ask: Ask) -> None:
    names = [f"vm-{number}" for number in range(20)]
    answer = reply({"sessions": [missing("Torn", "torn", name) for name in names[:16]]})
    with Impostor(tmp_path, Answer(answer), Answer()) as impostor:
        found = ask(impostor.path, "retrieve_many", names)
    assert list(found) == names
    assert [type(error) for error in found.values()] == [luod.Torn] * 16 + [DaemonUnreachable] * 4


def test_where_nothing_came_there_is_nothing_to_restore(tmp_path: Path, ask: Ask) -> None:
    with Impostor(tmp_path, Answer(reply({"sessions": []}))) as impostor:
        assert ask(impostor.path, "restore", "vm") is None


@pytest.mark.parametrize("error", ["NoSuchSession", "Busy"])
def test_where_only_an_outgoing_session_is_luod_says_whether_it_was_carried_over(
    tmp_path: Path, ask: Ask, error: str
) -> None:
    answer = reply(
        {"name": "vm", "message": "it was carried over", "hint": "update"}, error=f"io.luod.Sessions.{error}"
    )
    with Impostor(tmp_path, Answer(reply({"sessions": [ENTRY]})), Answer(answer)) as impostor:
        if error == "NoSuchSession":
            assert ask(impostor.path, "restore", "vm") is None
        else:
            with pytest.raises(luod.Busy, match="carried over"):
                ask(impostor.path, "restore", "vm")


@pytest.mark.parametrize("error", [luod.Torn, luod.AlreadyResumed])
def test_what_cannot_be_restored_is_said_with_how_to_discard_it(
    tmp_path: Path, ask: Ask, error: type[LuodError]
) -> None:
    listed = reply({"sessions": [{**ENTRY, "direction": "incoming", "state": "torn"}]})
    name = "Torn" if error is luod.Torn else "Resumed"
    refused = reply({"name": "vm", "message": "it cannot", "hint": "old"}, error=f"io.luod.Sessions.{name}")
    with Impostor(tmp_path, Answer(listed), Answer(refused)) as impostor, pytest.raises(error) as caught:
        ask(impostor.path, "restore", "vm")
    assert "client.discard('vm')" in caught.value.hint
    assert caught.value.__notes__ == [f"hint: {caught.value.hint}"]


@pytest.mark.parametrize("surface", [luod.Client, luod.AsyncClient])
def test_the_constructor_makes_no_call_and_with_looks_for_luod(tmp_path: Path, surface: Any) -> None:
    async def enter() -> None:
        async with surface(path):
            pass

    def begin() -> None:
        if surface is luod.Client:
            surface(path).__enter__()
        else:
            asyncio.run(enter())

    path = tmp_path / "luod.sock"
    surface(path)
    with pytest.raises(DaemonUnreachable, match="there is no luod at"):
        begin()


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf")])
def test_patience_is_a_number_of_seconds(wrong: float) -> None:
    for surface in (luod.Client, luod.AsyncClient):
        with pytest.raises(BadInput, match="patience"):
            surface(patience=wrong)


def test_a_client_finds_luod_again_after_it_was_gone(tmp_path: Path) -> None:
    with Impostor(tmp_path, Answer(reply({"sessions": []}))) as impostor:
        client = luod.Client(impostor.path)
        assert client.sessions() == ()
    with pytest.raises(DaemonUnreachable):
        client.sessions()
    with Impostor(tmp_path, Answer(reply({"sessions": [ENTRY]}))):
        assert len(client.sessions()) == 1


def test_a_client_works_on_both_sides_of_a_fork(tmp_path: Path) -> None:
    answers = [Answer(reply({"sessions": [ENTRY]}))] * 3
    with Impostor(tmp_path, *answers) as impostor:
        client = luod.Client(impostor.path)
        client.sessions()
        child = os.fork()
        if not child:
            os._exit(len(client.sessions()))
        assert len(client.sessions()) == 1
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
