"""Calls as other Varlink implementations put them, and messages that are no call: each gets a reply."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from luod.ipc.server.calls import Malformed, may_be_oneway, parse

GET_INFO = "org.varlink.service.GetInfo"

CALLS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "the method alone": ('{"method":"org.varlink.service.GetInfo"}', {}, False),
    "empty parameters": ('{"method":"org.varlink.service.GetInfo","parameters":{}}', {}, False),
    "null parameters": ('{"method":"org.varlink.service.GetInfo","parameters":null}', {}, False),
    "a null in them": (
        '{"method":"org.varlink.service.GetInfo","parameters":{"a":null}}',
        {"a": None},
        False,
    ),
    "null for every optional member": (
        '{"method":"org.varlink.service.GetInfo","parameters":null,"oneway":null,"more":null,"upgrade":null}',
        {},
        False,
    ),
    "false for every flag": (
        '{"method":"org.varlink.service.GetInfo","oneway":false,"more":false,"upgrade":false}',
        {},
        False,
    ),
    "more": ('{"method":"org.varlink.service.GetInfo","more":true}', {}, True),
    "a member of a vendor": ('{"method":"org.varlink.service.GetInfo","com.example.trace":{"id":1}}', {}, False),
    "white space": (' {"method" : "org.varlink.service.GetInfo" }\n', {}, False),
    "a character in two halves": (
        '{"method":"org.varlink.service.GetInfo","parameters":{"a":"\\ud83d\\ude00"}}',
        {"a": "😀"},
        False,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_as_others_put_them(name: str) -> None:
    text, parameters, more = CALLS[name]
    call = parse(text.encode())
    assert (call.method, call.parameters, call.more, call.oneway) == (GET_INFO, parameters, more, False)


MALFORMED: dict[str, tuple[str, str, dict[str, str]]] = {
    "no interface": ('{"method":"List"}', "MethodNotFound", {"method": "List"}),
    "an empty method": ('{"method":""}', "MethodNotFound", {"method": ""}),
    "a path": ('{"method":"../../etc/passwd"}', "MethodNotFound", {"method": "../../etc/passwd"}),
    "no method": ('{"parameters":{}}', "InvalidParameter", {"parameter": "method"}),
    "null for the method": ('{"method":null}', "InvalidParameter", {"parameter": "method"}),
    "a number for the method": ('{"method":1}', "InvalidParameter", {"parameter": "method"}),
    "a list for them": (
        '{"method":"a.b.C","parameters":[]}',
        "InvalidParameter",
        {"parameter": "parameters"},
    ),
    "false for them": (
        '{"method":"a.b.C","parameters":false}',
        "InvalidParameter",
        {"parameter": "parameters"},
    ),
    "a word for more": ('{"method":"a.b.C","more":"yes"}', "InvalidParameter", {"parameter": "more"}),
    "a number for oneway": ('{"method":"a.b.C","oneway":1}', "InvalidParameter", {"parameter": "oneway"}),
    "a list for upgrade": ('{"method":"a.b.C","upgrade":[]}', "InvalidParameter", {"parameter": "upgrade"}),
    "an upgrade": ('{"method":"a.b.C","upgrade":true}', "MethodNotImplemented", {"method": "a.b.C"}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_call_has_an_error_and_the_connection_stays(name: str) -> None:
    text, error, parameters = MALFORMED[name]
    with pytest.raises(Malformed) as raised:
        parse(text.encode())
    reply = raised.value.error
    assert (reply.name, reply.parameters) == (f"org.varlink.service.{error}", parameters)
    assert not raised.value.fatal
    assert not raised.value.oneway


NO_OBJECT = {
    "nothing": b"",
    "a word": b"hello",
    "a list": b'["method"]',
    "a string": b'"org.varlink.service.GetInfo"',
    "null": b"null",
    "half an object": b'{"method":',
    "two objects": b'{"method":"a.b.C"}{"method":"a.b.C"}',
    "bytes that are no UTF-8": b'{"method":"\xff"}',
    "another encoding": '{"method":"a.b.C"}'.encode("utf-16"),
    "no number": b'{"method":"a.b.C","parameters":{"a":NaN}}',
    "half a character": b'{"method":"a.b.C","parameters":{"a":"\\ud83d"}}',
    "too deep": b"[" * 60_000,
    "a number of 10000 digits": b'{"method":' + b"1" * 10_000 + b"}",
}


@pytest.mark.parametrize("name", NO_OBJECT)
def test_what_is_no_json_object_has_an_error_and_ends_the_connection(name: str) -> None:
    with pytest.raises(Malformed) as raised:
        parse(NO_OBJECT[name])
    assert raised.value.fatal
    assert raised.value.error.name == "org.varlink.service.InvalidParameter"


def test_a_malformed_call_that_wants_no_reply_gets_none() -> None:
    with pytest.raises(Malformed) as raised:
        parse(b'{"method":"List","oneway":true}')
    assert raised.value.oneway


def test_only_what_may_want_no_reply_is_served_to_one_that_hung_up() -> None:
    assert may_be_oneway(b'{"method":"a.b.C","oneway":true}')
    assert may_be_oneway(b'{"method":"a.b.C","\\u006fneway":true}')
    assert not may_be_oneway(b'{"method":"a.b.C","parameters":{}}')


def answers(server: Any, *texts: bytes) -> list[dict[str, Any]]:
    """Sends the texts, and returns the answers until the server closes the connection."""
    with server.connect() as connection:
        connection.sendall(b"".join(text + b"\0" for text in texts))
        connection.shutdown(1)
        said = b""
        with contextlib.suppress(ConnectionResetError):  # where the server did not read all of it
            while data := connection.recv(1 << 16):
                said += data
    return [json.loads(part) for part in said.split(b"\0")[:-1]]


def test_each_malformed_call_is_answered_in_its_place(start: Any) -> None:
    server = start()
    echo = b'{"method":"org.example.Talk.Echo","parameters":{"text":"x"},"more":null}'
    said = answers(server, b'{"method":"Echo"}', echo, b'{"method":"Echo","oneway":true}', b'{"method":[]}', echo)
    errors = [answer.get("error") for answer in said]
    assert errors == ["org.varlink.service.MethodNotFound", None, "org.varlink.service.InvalidParameter", None]


def test_a_reply_has_parameters_even_where_there_are_none(start: Any) -> None:
    (missing,) = answers(start(), b'{"method":"org.example.Talk.Count"}')
    assert missing == {"error": "org.varlink.service.ExpectedMore", "parameters": {}}


def test_what_is_unknown_is_named_in_full(start: Any) -> None:
    method, interface = answers(start(), b'{"method":"org.example.Talk.Nope"}', b'{"method":"org.example.Nope.Echo"}')
    assert method["error"] == "org.varlink.service.MethodNotFound"
    assert method["parameters"] == {"method": "org.example.Talk.Nope"}
    assert interface["error"] == "org.varlink.service.InterfaceNotFound"
    assert interface["parameters"] == {"interface": "org.example.Nope"}


def test_one_that_sends_no_json_is_told_so_before_it_is_dropped(start: Any) -> None:
    (told,) = answers(start(), b"hello", b'{"method":"org.example.Talk.Echo","parameters":{"text":"x"}}')
    assert told == {"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": "message"}}
