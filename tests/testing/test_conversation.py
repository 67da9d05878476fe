"""What the error of an unanswered request says, of a machine whose agent is a socket."""

from __future__ import annotations

import json
import socket

import pytest

from luod.errors import MachineError
from luod.testing.channel import Channel
from luod.testing.conversation import Conversation

NAMED = "imports a module of luod_preload before: blocking"


@pytest.mark.parametrize(("told", "is_named"), [(["blocking"], True), (["blocking", ""], False), ([], False)])
def test_an_import_that_does_not_end_is_named(told: list[str], is_named: bool) -> None:
    ours, agent = socket.socketpair()
    conversation = Conversation(
        Channel(ours),
        timeout=60,
        booted=lambda hello: None,
        told=lambda message: None,
        why_ended=lambda: "",
        log=lambda: "",
    )
    messages = [{"hello": 1, "agent": "x"}, *({"imports": name} for name in told)]
    with agent:
        agent.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
        conversation.wait_for_boot(1, "boot")
        with pytest.raises(MachineError, match=r"no answer within 0\.1 s") as failed:
            conversation.request("run", "run it", parameters={}, timeout=0.1)
        conversation.close()

    assert (NAMED in str(failed.value)) == is_named
