"""Parameters are what the library makes of them, and lists take a fraction of its time."""

from __future__ import annotations

import time
from typing import Any

import pytest
from asyncvarlink import VarlinkMethodSignature
from asyncvarlink.conversion import ConversionError
from asyncvarlink.interface import varlinksignature

from luod.ipc.interfaces.updates import Updates
from luod.ipc.server.arguments import arguments

FILE = {"token": 1, "name": None, "kind": "memfd", "size": 1, "allocated": 1, "seals": 0, "when": "freezing"}


def signature(method: str) -> VarlinkMethodSignature:
    found = varlinksignature(getattr(Updates, method))
    assert found is not None
    return found


def declared(**changes: Any) -> dict[str, Any]:
    return {"participant": "t", "sessions": [{"name": "s", "files": [{**FILE, **changes}, FILE]}]}


RIGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "names": ("Resuming", {"names": ["a", "b"]}),
    "no names": ("Resuming", {"names": []}),
    "a session": ("Declare", declared()),
    "a file with a name": ("Declare", declared(name="ram")),
    "a vote with a null": ("Vote", {"participant": "t", "phase": "preparing", "vote": "ready", "reason": None}),
    "a vote without its optional member": ("Vote", {"participant": "t", "phase": "preparing", "vote": "ready"}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_parameters_are_what_the_library_makes_of_them(name: str) -> None:
    method, parameters = RIGHT[name]
    wanted = signature(method).parameter_type.fromjson(parameters)
    assert arguments(signature(method), parameters, None) == wanted


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
    with pytest.raises(ConversionError) as raised:
        arguments(signature(method), parameters, None)
    assert raised.value.location[0] == member


def test_a_message_full_of_values_takes_a_fraction_of_the_librarys_time() -> None:
    parameters: dict[str, Any] = {"names": ["a"] * 15_000}

    def least(convert: Any) -> float:
        taken = []
        for _ in range(5):
            begun = time.perf_counter()
            convert()
            taken.append(time.perf_counter() - begun)
        return min(taken)

    resuming = signature("Resuming")
    ours = least(lambda: arguments(resuming, parameters, None))
    librarys = least(lambda: resuming.parameter_type.fromjson(parameters))
    assert ours < librarys / 2
