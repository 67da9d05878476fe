"""One update as a state machine: awaited participants, the turn to preserve, deadlines, and the end.

Pure: no I/O, no clock (`now` is monotonic seconds), no sessions. Every transition returns a new `Transaction` and does
not change the old one. `luod.daemon.updates.coordinator` acts on each state for the participants, and
`luod.daemon.updates.stages` for the kernel. `luod.daemon.store.recovery` finds the result in the next kernel.

    preparing ──all ready──> freezing ──all ready──> jumping ──reboot(2)──> (the next kernel: restoring)
        │                        │                      │
        └── veto, silence, death, abort, a failure ─────┴─ reboot(2) returned ──> cancelled

With `skip_unready`, silence, death and a lack of memory do not cancel: the member is lost, so that its sessions will
be torn. A veto and an abort always cancel. An observer is a member without a declared session. It does not cancel the
update: every user may follow, and must not be able to block updates.
"""

from __future__ import annotations

from types import MappingProxyType

from luod.errors import LuodError
from luod.frozen import frozen, replace
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from luod.ipc.types.phases import Phase, Standing, VotePhase

LATE: Final = "it did not vote in time"
BYTES_A_SECOND: Final = 100 * 1024 * 1024
"""The rate for PRESERVE in deadlines: half of that measured where every page had to be moved (docs/hazards.md, H3)."""


class NotAwaited(LuodError):
    """The call is not expected from that member now; nothing has changed."""


@frozen
class Member:
    """One participant. `standing` is of this phase, reached `since` (seconds)."""

    id: int
    name: str
    since: float
    standing: Standing = "awaited"
    preparing_bytes: int = 0
    """Bytes to be preserved while preparing, after a grant."""
    freezing_bytes: int = 0
    """Bytes to be preserved while frozen, at most."""
    asked: int | None = None
    """Its place in the queue for a grant; None: it needs no grant."""
    reason: str | None = None
    observer: bool = False
    """It has declared no session."""

    @property
    def open(self) -> bool:
        return self.standing in ("awaited", "granted")


@frozen
class Transaction:
    """An update. `began` is the start of this phase. `patience` is the time limit of each phase in seconds.

    The declared bytes add to it, up to `most_bytes`, the memory of the machine, since declarations are not trusted.
    """

    members: Mapping[int, Member]
    patience: float
    began: float
    skip_unready: bool = False
    phase: Phase = "preparing"
    reason: str | None = None
    """The reason of the cancellation, for people."""
    asks: int = 0
    most_bytes: int = 2**63

    @classmethod
    def begin(
        cls,
        names: Iterable[tuple[int, str]],
        *,
        patience: float,
        skip_unready: bool,
        now: float,
        observers: Collection[int] = (),
        most_bytes: int = 2**63,
    ) -> Transaction:
        members = {id: Member(id, name, now, observer=id in observers) for id, name in names}
        return cls(MappingProxyType(members), patience, now, skip_unready, most_bytes=most_bytes)

    def join(self, id: int, name: str, now: float, *, observer: bool = False) -> Transaction:
        """Adds a member, which began to follow while the others prepare. Raises NotAwaited: it is another phase."""
        if self.phase != "preparing":
            raise NotAwaited(f"it is {self.phase}, not preparing")
        return self._with(Member(id, name, now, observer=observer))

    @property
    def awaited(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members.values() if member.open)

    @property
    def settled(self) -> bool:
        """Returns whether nothing more is awaited in this phase."""
        return self.phase in ("jumping", "cancelled") or not self.awaited

    @property
    def granted(self) -> Member | None:
        return next((member for member in self.members.values() if member.standing == "granted"), None)

    @property
    def deadline(self) -> float:
        frozen = self.phase != "preparing"
        to_preserve = sum(m.freezing_bytes if frozen else m.preparing_bytes for m in self.members.values())
        return self.began + self.patience + min(to_preserve, self.most_bytes) / BYTES_A_SECOND

    def declared(self, id: int, *, preparing_bytes: int, freezing_bytes: int, observer: bool = False) -> Transaction:
        """Records the bytes that a member has to preserve; with bytes to preserve now it queues for a grant.

        Raises NotAwaited: in another phase, after its vote, and while it has the grant.
        """
        member = self._awaited("preparing", id)
        if member.standing == "granted":
            raise NotAwaited(
                "its files are being preserved", hint="vote first; declare again when the update has ended"
            )
        if not preparing_bytes:
            asked, asks = None, self.asks
        elif member.asked is None:
            asked = asks = self.asks + 1
        else:
            asked, asks = member.asked, self.asks
        changed = replace(
            member, preparing_bytes=preparing_bytes, freezing_bytes=freezing_bytes, asked=asked, observer=observer
        )
        return replace(self._with(changed), asks=asks)

    def turn(self) -> Member | None:
        """Returns the member to be granted next: the first in the queue, when no member has the grant."""
        if self.phase != "preparing" or self.granted is not None:
            return None
        queue = [member for member in self.awaited if member.asked is not None]
        return min(queue, key=lambda member: member.asked or 0, default=None)

    def grant(self, now: float) -> Transaction:
        """Gives the grant to the next member. Raises NotAwaited: there is no next one."""
        member = self.turn()
        if member is None:
            raise NotAwaited("no participant is to preserve now")
        return self._with(replace(member, standing="granted", since=now))

    def ready(self, id: int, phase: VotePhase, now: float) -> Transaction:
        """Records a vote.

        Raises NotAwaited: another phase, voted already, lost, or files declared for a pending grant.
        """
        member = self._awaited(phase, id)
        if phase == "preparing" and member.standing == "awaited" and member.asked is not None:
            raise NotAwaited("it declared files to preserve and has no grant yet", hint="wait for the event granted")
        return self._with(replace(member, standing="ready", since=now))

    def veto(self, id: int, phase: VotePhase, reason: str, now: float) -> Transaction:
        """Cancels.

        While freezing it counts after `ready`, too. Raises NotAwaited: another phase; lost, or an observer.
        """
        member = self._member(phase, id)
        if member.observer:
            raise NotAwaited("it has declared no session, so it cannot veto the update", hint="declare one first")
        if not member.open and not (phase == "freezing" and member.standing == "ready"):
            raise NotAwaited("it has voted already" if member.standing == "ready" else "the update goes on without it")
        changed = self._with(replace(member, standing="vetoed", since=now, reason=reason))
        return changed.cancel(f"{member.name} vetoes: {reason}")

    def gone(self, id: int, now: float) -> Transaction:
        """Records that a member's connection is closed. After the last abort that changes nothing: its sessions are
        ready.
        """
        member = self.members.get(id)
        if member is None or member.standing == "lost" or self.phase in ("jumping", "cancelled"):
            return self
        changed = self._with(replace(member, standing="lost", since=now, reason="it is gone"))
        return changed if self.skip_unready or member.observer else changed.cancel(f"{member.name} is gone")

    def short(self, id: int, reason: str, now: float) -> Transaction:
        """Records a lack of memory for a member's files: the end, or with `skip_unready` a loss."""
        if not self.skip_unready:
            return self.cancel(reason)
        return self._with(replace(self.members[id], standing="lost", since=now, reason=reason))

    def tick(self, now: float) -> Transaction:
        """Advances the time: silence past the deadline is a veto, or with `skip_unready` a loss."""
        late = self.awaited
        if self.phase not in ("preparing", "freezing") or now < self.deadline or not late:
            return self
        changed = self
        for member in late:
            changed = changed._with(replace(member, standing="lost", since=now, reason=LATE))
        late = tuple(member for member in late if not member.observer)
        if self.skip_unready or not late:
            return changed
        names = ", ".join(member.name for member in late[:5]) + (", …" if len(late) > 5 else "")
        return changed.cancel(f"no vote in {self.phase} in time from {names}")

    def freeze(self, now: float) -> Transaction:
        """Goes from preparing to freezing, without observers. Raises NotAwaited: a vote is missing; another phase."""
        self._settled("preparing")

        def next_of(member: Member) -> Member:
            if member.standing == "lost":
                return member
            if member.observer:
                return replace(member, standing="lost", since=now, reason="it has declared no session")
            return replace(member, standing="awaited", since=now)

        members = {id: next_of(member) for id, member in self.members.items()}
        return replace(self, phase="freezing", began=now, members=MappingProxyType(members))

    def jump(self, now: float) -> Transaction:
        """Goes from freezing to jumping: no abort from here on. Raises NotAwaited as `freeze`."""
        self._settled("freezing")
        return replace(self, phase="jumping", began=now)

    def cancel(self, reason: str) -> Transaction:
        """Cancels by an abort or a failure. Raises NotAwaited: reboot(2) is under way, so only `returned` can.
        Idempotent.
        """
        if self.phase == "jumping":
            raise NotAwaited("the kexec has begun and cannot be vetoed any more")
        return self if self.phase == "cancelled" else replace(self, phase="cancelled", reason=reason)

    def returned(self, reason: str) -> Transaction:
        """Records that reboot(2) returned, or was never reached: the one way out of jumping. Raises NotAwaited: another
        phase.
        """
        if self.phase != "jumping":
            raise NotAwaited(f"it is {self.phase}")
        return replace(self, phase="cancelled", reason=reason)

    def _member(self, phase: VotePhase, id: int) -> Member:
        if self.phase != phase:
            raise NotAwaited(f"it is {self.phase}, not {phase}")
        if id not in self.members:
            raise NotAwaited("it has no part in this update", hint="it began to follow while the update was running")
        return self.members[id]

    def _awaited(self, phase: VotePhase, id: int) -> Member:
        member = self._member(phase, id)
        if not member.open:
            raise NotAwaited("it has voted already" if member.standing == "ready" else "the update goes on without it")
        return member

    def _settled(self, phase: Phase) -> None:
        if self.phase != phase or not self.settled:
            raise NotAwaited(f"it is {self.phase}, and {len(self.awaited)} have not voted")

    def _with(self, member: Member) -> Transaction:
        return replace(self, members=MappingProxyType({**self.members, member.id: member}))
