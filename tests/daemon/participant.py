"""Participants and operators of updates, seen from outside their machine. Used by tests of updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luod.testing import eventually
from luod.testing.host import ADMIN_SOCKET, SOCKET
from tests.daemon.host import Luod
from tests.devices import FIRST, set_up
from tests.library import Error, Vmm, start_vmm

UPDATES = "io.luod.Updates."
ADMIN = "io.luod.Admin."


def start(luod: Luod, user: int | None = None, *, program: str = "participant") -> Vmm:
    return start_vmm(luod.machine, luod.python(user), program, (SOCKET, ADMIN_SOCKET), user=user)


class Participant:
    """A workload with one session of the same name, which has 4096 bytes of memory under token 1."""

    def __init__(
        self, luod: Luod, name: str, user: int | None = None, *, declare: bool = True, program: str = "participant"
    ) -> None:
        self.name = name
        self.vmm = start(luod, user, program=program)
        self.vmm.call("create", name=name, slot=name)
        self.digest = self.vmm.memfd("ram", seed=len(name))
        self.vmm.call("preserve", session=name, file="ram", token=1)
        self.secret = ""
        self.follow()
        if declare:
            self.declare()

    def follow(self) -> dict[str, Any]:
        self.vmm.call("more", slot="follow", method=UPDATES + "Follow", parameters={"name": self.name})
        following = self.event()
        assert following["event"] == "following"
        self.secret = following["participant"]
        return following

    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = self.vmm.call("next", slot="follow")
        return event

    def expect(self, *kinds: str) -> dict[str, Any]:
        """Checks that the next events are of these kinds. Returns the last of them."""
        event: dict[str, Any] = {}
        for kind in kinds:
            event = self.event()
            assert event["event"] == kind, event
        return event

    def declare(self, *files: dict[str, Any], sessions: list[dict[str, Any]] | None = None) -> float | None:
        held = sessions if sessions is not None else [{"name": self.name, "files": list(files) or [file(1)]}]
        reply = self.vmm.call(
            "method", method=UPDATES + "Declare", parameters={"participant": self.secret, "sessions": held}
        )
        left: float | None = reply.get("deadline")
        return left

    def vote(self, phase: str, vote: str = "ready", reason: str | None = None) -> None:
        self.vmm.call("method", method=UPDATES + "Vote", parameters=self._ballot(phase, vote, reason))

    def refused_vote(self, phase: str, vote: str = "ready") -> Error:
        return self.vmm.refused("method", method=UPDATES + "Vote", parameters=self._ballot(phase, vote, None))

    def _ballot(self, phase: str, vote: str, reason: str | None) -> dict[str, Any]:
        return {"participant": self.secret, "phase": phase, "vote": vote, "reason": reason}

    def freeze(self, generation: int, seed: int = 9) -> str:
        """Preserves frozen state in a session of this generation. Returns its digest."""
        name = f"{self.name}#{generation}"
        self.vmm.call("create", name=name, slot=name)
        digest = self.vmm.memfd(f"state {generation}", seed=seed)
        self.vmm.call("preserve", session=name, file=f"state {generation}", token=1)
        return digest


def preserve_device(luod: Luod) -> None:
    """Creates the session "vm", which has a quiesced device of the name "nic", under token 2."""
    vmm = start(luod, program="workload")
    vmm.call("create", name="vm", slot="s")
    vmm.call("bind_driver", address=FIRST)
    vmm.call("open_device", address=FIRST, slot="vfio")
    set_up(vmm)
    vmm.call("preserve", session="s", file="vfio", token=2, name="nic")
    vmm.call("quiesce", device="vfio")


def file(
    token: int, *, size: int = 4096, allocated: int = 4096, when: str = "preserved", kind: str = "memfd"
) -> dict[str, Any]:
    facts = {"token": token, "name": None, "kind": kind, "size": size, "allocated": allocated, "seals": 0}
    return {**facts, "when": when}


class Operator:
    """Runs updates over the admin socket, and reads the replies."""

    def __init__(self, luod: Luod) -> None:
        self.vmm = start(luod)

    def update(
        self,
        *,
        deadline: float | None = None,
        skip_unready: bool = False,
        dry_run: bool = False,
        detach: bool = False,
        findings: Sequence[str] = (),
    ) -> None:
        """Requests an update that ignores `findings`."""
        wishes = {
            "deadline": deadline,
            "skip_unready": skip_unready,
            "dry_run": dry_run,
            "detach": detach,
            "ignore_findings": list(findings),
        }
        self.vmm.call("more", slot="update", method=ADMIN + "Update", parameters=wishes)

    def next(self) -> dict[str, Any] | None:
        progress: dict[str, Any] | None = self.vmm.call("next", slot="update")
        return progress

    def until(self, state: str) -> dict[str, Any]:
        """Reads replies until the first with this state, and returns it. The stream continues."""
        while True:
            progress = self.next()
            assert progress is not None, f"it ended, and never was {state}"
            if progress["state"] == state:
                return progress

    def refused(self) -> Error:
        return self.vmm.refused("next", slot="update")

    def abort(self) -> None:
        self.vmm.call("method", method=ADMIN + "Abort", parameters={})

    def refused_abort(self) -> Error:
        return self.vmm.refused("method", method=ADMIN + "Abort", parameters={})


def begin(
    luod: Luod,
    *,
    deadline: float | None = None,
    skip_unready: bool = False,
    dry_run: bool = False,
    findings: Sequence[str] = (),
) -> Operator:
    """Loads a kernel and requests an update into it, with these arguments of `Operator.update`."""
    luod.load()
    operator = Operator(luod)
    operator.update(deadline=deadline, skip_unready=skip_unready, dry_run=dry_run, findings=findings)
    return operator


def prepare(*participants: Participant) -> None:
    """Has the participants vote ready in preparing."""
    for participant in participants:
        participant.expect("preparing")
        participant.vote("preparing")


def jump_with(luod: Luod, *participants: Participant) -> None:
    """Has the participants vote ready in freezing, and starts luod after the kexec."""
    with luod.machine.expect_jump():
        for participant in participants:
            participant.vote("freezing")
    luod.start()


def started_jump(luod: Luod) -> int:
    """Waits for the process that calls reboot(2) and returns its pid. It must not be stopped before its exec."""
    serve = luod.serve_pid()

    def look() -> int | None:
        for child in luod.machine.read(f"/proc/{serve}/task/{serve}/children").split():
            if b"luod.daemon.updates.reboot" in luod.machine.read(f"/proc/{int(child)}/cmdline"):
                return int(child)
        return None

    return eventually(look, describe="serve has started the process that calls reboot(2)") or 0
