"""Many sessions by one call: each has its own answer."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.daemon.host import Luod, states

_ASK: Final = """
import asyncio, json, luod, sys
surface, method, names = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if surface == "blocking":
    found = getattr(luod.Client(), method)(names)
else:
    async def ask():
        return await getattr(luod.AsyncClient(), method)(names)
    found = asyncio.run(ask())
said = {}
for name, each in found.items():
    if isinstance(each, luod.LuodError):
        said[name] = type(each).__name__
    else:
        said[name] = [each.name, getattr(each, "has_manifest", None)]
        each.close()
print(json.dumps(said))
"""

_TOO_MANY: Final = """
import luod
from luod.ipc.client.connection import Connection
from luod.ipc.framing import encode_call
from luod.ipc.names import SESSIONS_SOCKET
try:
    Connection(SESSIONS_SOCKET, timeout=30).ask(encode_call("io.luod.Sessions.RetrieveMany", {"names": ["vm"] * 17}))
except luod.CallFailed as error:
    print(error.name)
"""


def many(luod: Luod, method: str, names: list[str], surface: str) -> dict[str, Any]:
    """Returns for each name the kernel's name of the session and whether it has a manifest, or its error."""
    answer: dict[str, Any] = json.loads(luod.run_source(_ASK, surface, method, json.dumps(names)).stdout)
    return answer


@pytest.mark.parametrize("surface", ["blocking", "asyncio"])
def test_one_that_fails_does_not_affect_the_others(luod: Luod, surface: str) -> None:
    names = [f"vm-{number:02}" for number in range(20)]
    assert many(luod, "create_many", names, surface) == {name: [name, True] for name in names}
    made = many(luod, "create_many", ["vm-03", "other", "a#7"], surface)
    assert made == {"vm-03": "SessionExists", "other": ["other", True], "a#7": "BadInput"}
    luod.jump()
    found = many(luod, "retrieve_many", ["gone", *names], surface)
    assert found == {"gone": "NoSuchSession"} | {name: [name, None] for name in names}
    assert many(luod, "retrieve_many", names, surface) == {name: [name, None] for name in names}
    assert states(luod.vmm()) == {f"incoming {name}": "retrieved" for name in names} | {"incoming other": "waiting"}


def test_more_than_sixteen_are_refused_before_any_is_retrieved(luod: Luod) -> None:
    assert luod.run_source(_TOO_MANY).stdout == b"org.varlink.service.InvalidParameter\n"
