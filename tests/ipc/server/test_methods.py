"""Methods as their annotations describe them: right parameters are typed values, wrong ones are named."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest

from luod.ipc.errors import ExpectedMore, InterfaceNotFound, InvalidParameter, MethodNotFound
from luod.ipc.interfaces.admin import Admin
from luod.ipc.interfaces.idl import description
from luod.ipc.interfaces.sessions import Sessions, StashedFile
from luod.ipc.interfaces.updates import Updates
from luod.ipc.server.calls import Call
from luod.ipc.server.introspection import Introspection
from luod.ipc.server.methods import Last, Method, Reply, find
from luod.ipc.server.received import Received
from luod.ipc.types.sessions import GivenUp
from luod.ipc.types.updates import DeclaredFile, DeclaredSession
from luod.linux import Fd

FILE = {"token": 1, "name": None, "kind": "memfd", "size": 1, "allocated": 1, "seals": 0, "when": "freezing"}


def of(interface: type[Updates | Sessions | Admin], name: str) -> Method:
    found = interface.method(name)
    assert found is not None
    return found


def declared(**changes: Any) -> dict[str, Any]:
    return {"participant": "t", "sessions": [{"name": "s", "files": [{**FILE, **changes}, FILE]}]}


def session(name: str | None = None) -> DeclaredSession:
    first, second = (DeclaredFile(1, each, "memfd", 1, 1, 0, "freezing") for each in (name, None))
    return DeclaredSession("s", [first, second])


VOTE = {"participant": "t", "phase": "preparing", "vote": "ready", "reason": None}
RIGHT: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "names": ("Resuming", {"names": ["a", "b"]}, {"names": ["a", "b"]}),
    "no names": ("Resuming", {"names": []}, {"names": []}),
    "a session": ("Declare", declared(), {"participant": "t", "sessions": [session()], "generation": None}),
    "a file with a name": (
        "Declare",
        declared(name="ram"),
        {"participant": "t", "sessions": [session("ram")], "generation": None},
    ),
    "a vote with a null": ("Vote", {**VOTE, "generation": None}, {**VOTE, "generation": None}),
    "a vote without its optional member": ("Vote", VOTE, {**VOTE, "generation": None}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_parameters_are_typed_values(name: str) -> None:
    method, parameters, wanted = RIGHT[name]
    assert of(Updates, method).arguments(parameters, ()) == wanted


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "an element of another type": ("Resuming", {"names": ["a", 1]}, "names"),
    "no list": ("Resuming", {"names": "a"}, "names"),
    "nothing": ("Resuming", {}, "names"),
    "null for what has no null": ("Resuming", {"names": None}, "names"),
    "a member too many": ("Declare", declared(more=1), "sessions"),
    "a truth for a number": ("Declare", declared(token=True), "sessions"),
    "another word": ("Declare", declared(when="later"), "sessions"),
    "a file that is no object": (
        "Declare",
        {"participant": "t", "sessions": [{"name": "s", "files": [1]}]},
        "sessions",
    ),
    "a session without files": ("Declare", {"participant": "t", "sessions": [{"name": "s"}]}, "sessions"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_parameters_are_named(name: str) -> None:
    method, parameters, member = WRONG[name]
    with pytest.raises(InvalidParameter) as raised:
        of(Updates, method).arguments(parameters, ())
    assert raised.value.parameters == {"parameter": member}


def test_a_message_full_of_values_takes_a_few_times_as_long_as_to_parse_it() -> None:
    text = json.dumps({"names": ["a"] * 15_000})
    parameters = json.loads(text)

    def least(convert: Any) -> float:
        taken = []
        for _ in range(5):
            begun = time.process_time()
            convert()
            taken.append(time.process_time() - begun)
        return min(taken)

    assert least(lambda: of(Updates, "Resuming").arguments(parameters, ())) < 20 * least(lambda: json.loads(text))


def test_a_file_is_found_by_its_index_and_another_index_is_refused() -> None:
    files = [Received(None, lambda file: None) for _ in range(2)]
    stash = of(Sessions, "Stash")
    found = stash.arguments({"name": "s", "files": [{"name": "a", "file_fd": 1}]}, files)
    assert found == {"name": "s", "files": [StashedFile("a", files[1])]}
    for index in (2, -1, True, "0", None):
        with pytest.raises(InvalidParameter) as raised:
            stash.arguments({"name": "s", "files": [{"name": "a", "file_fd": index}]}, files)
        assert raised.value.parameters == {"parameter": "files"}


def test_a_reply_has_the_members_of_an_object_or_the_one_parameter_or_none() -> None:
    assert of(Sessions, "GiveUp").answer(GivenUp(["a"], [])) == {"released": ["a"], "open": []}
    assert of(Sessions, "List").answer([]) == {"sessions": []}
    assert of(Admin, "Abort").answer(None) == {}
    assert of(Admin, "Stop").answer(Last(["a"])) == {"lost": ["a"]}


def test_the_files_of_a_reply_are_indexes_and_closed_with_it() -> None:
    passed, given = Fd(os.open(os.devnull, os.O_RDONLY)), Fd(os.open(os.devnull, os.O_RDONLY))
    numbers = [given.fileno(), passed.fileno()]
    reply = Reply({"file": given, "files": [StashedFile("a", Received(passed, Fd.close))]}, continues=True)
    text = b'{"parameters":{"file":0,"files":[{"name":"a","file_fd":1}]},"continues":true}\0'
    assert (reply.data, reply.fds) == (text, numbers)
    reply.close()
    assert passed.closed
    assert given.closed


def test_the_files_of_a_reply_that_cannot_be_written_are_closed() -> None:
    file = Fd(os.open(os.devnull, os.O_RDONLY))
    with pytest.raises(TypeError):
        Reply({"file": file, "thing": object()})
    assert file.closed


UNKNOWN: dict[str, tuple[Call, type[Exception]]] = {
    "an interface": (Call("org.example.Talk.Echo", {}), InterfaceNotFound),
    "a method": (Call("org.varlink.service.Nope", {}), MethodNotFound),
    "a function that is no method": (Call("org.varlink.service.__init__", {}), MethodNotFound),
    "a function of all interfaces": (Call("org.varlink.service.description", {}), MethodNotFound),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_does_not_exist_is_not_found(name: str) -> None:
    call, error = UNKNOWN[name]
    interface = Introspection({})
    with pytest.raises(error):
        find({interface.name: interface}, call)


def test_a_method_with_more_than_one_reply_is_called_with_more() -> None:
    interface = Updates.__new__(Updates)
    with pytest.raises(ExpectedMore):
        find({interface.name: interface}, Call("io.luod.Updates.Follow", {}))
    assert find({interface.name: interface}, Call("io.luod.Updates.Follow", {}, more=True))[1].more


def test_the_interface_of_every_service_is_described_as_its_methods_are() -> None:
    def statements(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith(("interface ", "method "))]

    assert statements(Introspection.description()) == statements(description(Introspection))
