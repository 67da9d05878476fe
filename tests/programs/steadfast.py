"""A VMM that wants its guest to live, whatever dies: it does what docs/updates.md asks of it, with `luod.Participant`.

`python3 -m tests.programs.steadfast SOCKET DIARY`, inside a machine. It restores the guest of the last kexec, and then
takes part in the next update. The guest is 4096 bytes with its name and the number of its pauses. The state that is
written while it is frozen has the same two, so a mix of two states shows. DIARY is a file of JSON lines: `guest`, the
one of a cold start, `retrieving`, `resuming`, then `resumed` with both, or `cold` with the reason of the cold start,
and `carrying` before it takes part in updates. Started again it continues as the next VMM would. Standard library and
luod only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import luod
from luod.errors import AlreadyResumed, CallFailed, DaemonUnreachable, NoSuchSession, Refused, Torn
from luod.linux import Fd, memfd
from luod.participant import Participant
from luod.testing.waiting import eventually

NAME = "vm"
SIZE = 4096
LATER = ("Busy", "DeclaredByAnother", "WrongPhase")
"""An update is about to end, or luod has not seen yet that the VMM before this one is gone."""


def memory(contents: dict[str, Any]) -> Fd:
    file = memfd("guest", SIZE)
    write(file, contents)
    return file


def write(file: Fd, contents: dict[str, Any]) -> None:
    os.pwrite(file.fileno(), json.dumps(contents).encode().ljust(SIZE), 0)


def read(file: Fd) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads(os.pread(file.fileno(), SIZE, 0))
    return contents


class Steadfast:
    def __init__(self, socket: str, diary: str) -> None:
        self._diary = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        self._luod = luod.Client(socket)
        self._restored: luod.Restored | None = None
        self._retrieving = False
        self._resuming = False
        self._resumed = False
        self._session: luod.HeldOutgoingSession | None = None
        self._participant: Participant | None = None
        self._frozen: Fd | None = None
        self._guest: dict[str, Any] = {"id": os.urandom(4).hex(), "paused": 0}
        self._ram = memory(self._guest)

    def run(self) -> None:
        self._note(guest=self._guest["id"])
        self._insist(self._restore)
        self._insist(self._carry)

    def _note(self, **what: Any) -> None:
        os.write(self._diary, json.dumps(what).encode() + b"\n")

    def _insist(self, step: Callable[[], None]) -> None:
        """Does a step until luod has answered all of it."""

        def answered() -> bool:
            try:
                step()
            except DaemonUnreachable:
                return False
            except Refused as error:
                if type(error) is not Refused:
                    raise
                return False  # luod has not seen yet that the participant before this one is gone
            except CallFailed as error:
                if error.name.rpartition(".")[2] not in LATER:
                    raise
                return False
            return True

        eventually(answered, within=600, describe="luod answers")

    # -- after the jump --------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        try:
            if self._restored is None:
                if not self._retrieving:
                    self._note(retrieving=NAME)
                self._retrieving = True
                self._restored = self._luod.restore(NAME)
            if self._restored is not None and not self._resumed:
                self._resume(self._restored)
        except (Torn, AlreadyResumed, NoSuchSession) as error:
            if self._luod.discard(NAME):
                self._note(cold=type(error).__name__)
        else:
            if self._restored is not None:
                self._restored.finish()

    def _resume(self, restored: luod.Restored) -> None:
        contents = []
        for session in sorted(restored.sessions, key=lambda session: session.name):
            with session.retrieve("guest") as file:
                contents.append(read(file))
        if not self._resuming:
            self._note(resuming=True)
        self._resuming = True
        restored.resume()  # without an answer `_insist` asks again
        self._note(resumed=contents)
        self._resumed = True

    # -- before the jump -------------------------------------------------------------------------------------------

    def _carry(self) -> None:
        """Takes part in updates until the machine jumps."""
        if self._session is None:
            self._luod.discard(NAME)  # of a VMM before this one
            session = self._luod.create(NAME)
            session.preserve(self._ram, 1, name="guest")
            self._session = session
        self._note(carrying=NAME)
        if self._participant is None:
            self._participant = Participant(NAME, [self._session], client=self._luod)
        self._participant.run(freezing=self._freeze, cancelled=self._go_on)

    def _freeze(self, phase: Any) -> None:
        self._frozen = memory(self._guest)
        phase.create().preserve(self._frozen, 1, name="guest")
        phase.ready()

    def _go_on(self, phase: Any) -> None:
        """Runs the guest, which changes its frozen state."""
        if self._frozen is not None:
            self._frozen.close()
            self._frozen = None
        self._guest["paused"] += 1
        write(self._ram, self._guest)


if __name__ == "__main__":
    Steadfast(*sys.argv[1:]).run()
