"""`io.luod.Updates` as types: a workload's part in an update. `io.luod.Updates.varlink` is generated from this module.

Like `luod.ipc.interfaces.sessions`: served on both sockets, one object of `Updates` for one connection. What is done is
`Service`, which `luod.daemon.updates.participants` implements. What a VMM has to do, told as a story, is
docs/updates.md.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol

from asyncvarlink import AnnotatedResult, VarlinkInterface, varlinkmethod

from luod.ipc.interfaces.declared import answer, declared, members
from luod.ipc.names import UPDATES
from luod.ipc.server.peer import Peer
from luod.ipc.types.phases import Ballot, VotePhase
from luod.ipc.types.updates import DeclaredSession, Event


class Service(Protocol):
    """What luod does for a participant. The generator of `follow` is closed when the connection is."""

    def follow(self, peer: Peer, name: str) -> AsyncGenerator[Event, None]: ...
    async def declare(self, peer: Peer, participant: str, sessions: list[DeclaredSession]) -> float | None: ...
    async def vote(self, peer: Peer, participant: str, phase: VotePhase, vote: Ballot, reason: str | None) -> None: ...
    async def resuming(self, peer: Peer, names: list[str]) -> None: ...


class Updates(VarlinkInterface, name=UPDATES):
    """A workload's part in an update: it follows, declares what it will preserve, and votes in each phase.

    Phases: preparing (guests run, memory is preserved), freezing (guests pause, the last state is preserved; the
    blackout counts from here), jumping (reboot(2)), cancelled (everybody resumes). Times are seconds. Every error says
    what was wrong (message) and what to do (hint).
    """

    errors = declared(UPDATES)

    def __init__(self, service: Service, peer: Peer) -> None:
        self._service = service
        self._peer = peer

    @varlinkmethod(return_type=members(Event))
    async def Follow(self, *, name: str) -> AsyncIterator[AnnotatedResult]:
        """Makes this connection a participant, until it is closed. Call it with "more"; the other calls go over other
        connections, with `participant`. `name` is what the operator is shown: 1 to 63 of A-Z a-z 0-9 . _ @ / # -

        state, in every event, is luod's state. The events:

        following: the first. participant: a secret, for Declare and Vote. Who begins to follow while others prepare is
        told preparing next; who does so later has no part in that update.

        preparing: an update began. Within deadline seconds: Declare if there are files still to be preserved, wait
        for granted, preserve them; then Vote. Guests run on. generation: of this update.

        granted: it is this participant's turn to preserve what it declared as "preparing"; luod found memory for it,
        and nobody else preserves meanwhile. The turn ends with the Vote.

        freezing: everybody is ready. Within deadline seconds: pause the guest; stop its interrupts; put its last state
        in files of a session NAME#GENERATION, which io.luod.Sessions.Create makes now only for a NAME this participant
        declared; preserve them; Vote. "ready" says that nothing of the guest runs and that no thread is in an ioctl on
        a session, or will be, until cancelled.

        jumping: all are ready; reboot(2) comes next. There is nothing to do and nothing to answer.

        cancelled: the update is over and this machine goes on. Close every fd of the session NAME#GENERATION (luod has
        dropped its own), resume the guest. reason: for people. What was preserved in NAME stays preserved.
        frozen_devices: of the files declared as "vfio", those that the kernel may have frozen, which it does not undo.
        Each was reset, and is to be set up anew, or answers EIO until its driver is bound again, for which the session
        has to be released. null: a luod that was started again cannot tell; look at each.

        lost: the update goes on without this participant (--skip-unready): its sessions are carried, and torn. It may
        go on as it likes; cancelled may still follow. A participant that has declared no session by the end of
        preparing gets this event, too.

        When the connection breaks: before jumping has come, the update is cancelled, as far as this participant is
        concerned: resume. After jumping has come: stay paused and Follow again, until luod answers. state "jumping":
        stay paused, wait for cancelled. Any other state: the update is cancelled.

        Errors: Refused (the name).
        """
        async with aclosing(self._service.follow(self._peer, name)) as events:
            async for event in events:
                yield answer(event, continues=True)

    @varlinkmethod(return_parameter="deadline")
    async def Declare(self, *, participant: str, sessions: list[DeclaredSession]) -> float | None:
        """Says which outgoing sessions are this participant's, and what is in them; replaces what it declared before.

        From then on a session is judged: carried over a jump without a "ready" in freezing of the update that jumped,
        it is torn and never handed out. That holds when the participant is gone, too, until another declares the
        session; a session that its participant declares no longer is judged no longer.

        when, of a file: "preserved" already; to be preserved in "preparing", after granted; in "freezing" (an upper
        bound of its size; it needs no grant, since luod sees to the memory before it lets anybody freeze). kind:
        "memfd", "vfio" or another word. seals: F_SEAL_* bits. device, of a "vfio": its PCI address, so that luod does
        not jump while its driver is being taken from it, which reboot(2) would wait for without end.

        Answers the seconds left to Vote, which are more the more bytes there are to preserve; null when no update waits
        for this participant. Can be called at any time but from granted, or one's "ready" in preparing, until the
        update is over; by one that has no part in it, not until then.

        Errors: NotFollowing, WrongPhase, NoSuchSession, DeclaredByAnother, Refused.
        """
        return await self._service.declare(self._peer, participant, sessions)

    @varlinkmethod
    async def Vote(self, *, participant: str, phase: VotePhase, vote: Ballot, reason: str | None) -> None:
        """Says "ready": this phase is done; or "veto": the update must not happen now. reason says why, for people.

        One veto, a deadline that passes and a participant that goes away each cancel the update, unless that
        participant has declared no session. A vote cannot be taken back, but in freezing "veto" is heard after "ready"
        until jumping.

        Errors: NotFollowing, WrongPhase (another phase, has voted, is lost, files to preserve were declared and not
        granted yet, a veto without a session).
        """
        await self._service.vote(self._peer, participant, phase, vote, reason)

    @varlinkmethod
    async def Resuming(self, *, names: list[str]) -> None:
        """In the next kernel, before the first instruction of the guest: from here on there is no second try. When
        this is answered, luod has written that down, and hands out the incoming sessions `names`, and NAME#GENERATION
        of each, no more; they can be finished, and released. Needs no Follow.

        Errors: NoSuchSession, Torn, WrongPhase (it said so before), Refused (never retrieved). One that fails changes
        nothing.
        """
        await self._service.resuming(self._peer, names)
