"""`io.luod.Updates` as types: a workload's part in an update. `io.luod.Updates.varlink` is generated from this module.

It is like `luod.ipc.interfaces.sessions`: served on both sockets, one object of `Updates` for one connection. `Service`
does the work, and `luod.daemon.updates.participants` implements it. docs/updates.md describes a VMM's steps.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing

from luod.ipc.names import UPDATES
from luod.ipc.server.methods import Interface, method
from luod.ipc.types.phases import Ballot, VotePhase
from luod.ipc.types.updates import DeclaredSession, Event
from luod.static import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from luod.ipc.server.peer import Peer

    class Service(Protocol):
        """luod's work for a participant. The generator of `follow` is closed with the connection."""

        def follow(self, peer: Peer, name: str) -> AsyncGenerator[Event, None]: ...
        async def declare(
            self, peer: Peer, participant: str, sessions: list[DeclaredSession], generation: int | None
        ) -> float | None: ...
        async def vote(
            self,
            peer: Peer,
            participant: str,
            phase: VotePhase,
            vote: Ballot,
            reason: str | None,
            generation: int | None,
        ) -> None: ...
        def resuming(self, peer: Peer, names: list[str]) -> None: ...


class Updates(Interface, name=UPDATES):
    """A workload's part in an update: it follows, declares what it will preserve, and votes in each phase.

    Phases: preparing (guests run, memory is preserved), freezing (guests pause, the last state is preserved; the
    blackout starts here), jumping (reboot(2)), cancelled (every guest resumes). Times are seconds. Every error has a
    reason (message) and a remedy (hint).
    """

    def __init__(self, service: "Service", peer: "Peer") -> None:
        self._service = service
        self._peer = peer

    @method()
    async def Follow(self, *, name: str) -> AsyncIterator[Event]:
        """Makes this connection a participant, until it is closed. Call it with "more"; the other calls go over other
        connections, with `participant`. `name` is shown to the operator: 1 to 63 of A-Z a-z 0-9 . _ @ / # -

        state, in every event, is luod's state. The events:

        following: the first. participant: a secret, for Declare and Vote. A participant that begins to follow while
        others prepare gets preparing next; a later one has no part in that update.

        preparing: an update began. Within deadline seconds: Declare if there are files still to be preserved, wait for
        granted, preserve them; then Vote. Guests continue to run. generation: of this update.

        granted: it is this participant's turn to preserve the files that it declared as "preparing"; luod found memory
        for them, and no other participant preserves meanwhile. The turn ends with the Vote.

        freezing: every participant is ready. Within deadline seconds: pause the guest; stop its interrupts; put its
        last state in files of a session NAME#GENERATION, which io.luod.Sessions.Create makes now only for a NAME that
        this participant declared; preserve them; Vote. "ready" means that no part of the guest runs and that no thread
        is in an ioctl on a session, or will be, until cancelled.

        jumping: all are ready; reboot(2) comes next. There is nothing to do and nothing to answer.

        cancelled: the update is over and this kernel continues. Close every fd of the session NAME#GENERATION (luod has
        closed its own), resume the guest. reason: for people. Files that were preserved in NAME stay preserved.
        frozen_devices: of the files declared as "vfio", those that the kernel may have frozen, which it does not undo.
        Each was reset, and must be set up again, or answers EIO until its driver is bound again, for which the session
        has to be released. null: luod was restarted and does not know; check every device.

        lost: the update continues without this participant (--skip-unready): its sessions are carried, and torn. It may
        continue freely; cancelled may still follow. A participant that has declared no session by the end of preparing
        gets this event, too.

        When the connection breaks: before jumping, the update is cancelled for this participant: resume. After jumping:
        stay paused and Follow again, until luod answers. state "jumping": stay paused, wait for cancelled. Any other
        state: the update is cancelled.

        Errors: Refused (the name).
        """
        async with aclosing(self._service.follow(self._peer, name)) as events:
            async for event in events:
                yield event

    @method("deadline")
    async def Declare(
        self, *, participant: str, sessions: list[DeclaredSession], generation: int | None
    ) -> float | None:
        """Declares this participant's outgoing sessions and the files in them; replaces its earlier declaration.

        From then on a session is judged: carried over a kexec without a "ready" in freezing of that update, it is torn
        and never handed out. That holds when the participant is gone, too, until another declares the session. A
        session that its participant declares no longer is judged no longer.

        when, of a file: "preserved" already; to be preserved in "preparing", after granted; in "freezing" (an upper
        bound of its size; it needs no grant, since luod reserves the memory before any participant freezes). kind:
        "memfd", "vfio" or another word. seals: F_SEAL_* bits. device, of a "vfio": its PCI address, so that luod does
        not kexec while its driver is being unbound, for which reboot(2) would wait without end.

        Returns the seconds left to Vote, which depend on the bytes to preserve; null when no update waits for this
        participant. It can be called at any time except from granted, or the own "ready" in preparing, until the update
        is over; by a participant without a part in the update, not until then.

        generation: if given, it is for this update only, and WrongPhase if that is over.

        Errors: NotFollowing, WrongPhase, NoSuchSession, DeclaredByAnother, Refused.
        """
        return await self._service.declare(self._peer, participant, sessions, generation)

    @method()
    async def Vote(
        self, *, participant: str, phase: VotePhase, vote: Ballot, reason: str | None, generation: int | None
    ) -> None:
        """Votes "ready": this phase is done; or "veto": the update must not happen now. reason is for people.

        One veto, a missed deadline and a participant that goes away each cancel the update, unless that participant has
        declared no session. A vote cannot be taken back, but in freezing "veto" counts after "ready" until jumping.

        generation, of the event that asks for the vote: if given, a late vote does not count for the next update.

        Errors: NotFollowing, WrongPhase (another phase or update, has voted, is lost, files to preserve were declared
        and not granted yet, a veto without a session).
        """
        await self._service.vote(self._peer, participant, phase, vote, reason, generation)

    @method()
    def Resuming(self, *, names: list[str]) -> None:
        """Records that the guest resumes, in the next kernel, before its first instruction. It cannot be resumed again.

        When this is answered, luod has written it to its registry, and does not hand out the incoming sessions `names`,
        and NAME#GENERATION of each, any more. They can be finished, and released. It needs no Follow.

        A process that got no answer, and has not resumed the guest, calls it again: luod has recorded which process
        called it, and answers that one as before. It refuses the call of any other process.

        Errors: NoSuchSession, Torn, WrongPhase (called before by another process), Refused (never retrieved). After an
        error nothing is changed.
        """
        self._service.resuming(self._peer, names)
