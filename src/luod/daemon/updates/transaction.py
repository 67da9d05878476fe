"""One update as a state machine: who is awaited, whose turn it is, when time is up, and what ends it.

Pure: no I/O, no clock (`now` is monotonic seconds), no sessions. Every transition gives a new `Transaction` and leaves
the old one as it was. What is done about each state is `luod.daemon.updates.coordinator` (towards the participants) and
`luod.daemon.updates.update` (towards the kernel); what became of it in the next kernel is `luod.daemon.store.recovery`.

    preparing ──all ready──> freezing ──all ready──> jumping ──reboot(2)──> (the next kernel: restoring)
        │                        │                      │
        └── veto, silence, death, abort, a failure ─────┴─ reboot(2) returned ──> cancelled

With `skip_unready`, silence, death and a lack of memory do not cancel: the member is lost, so that its sessions will
be torn. A veto and an abort always cancel. A bystander, who declared no session, has nothing to lose, and so cancels
nothing: anybody may follow, and must not be able to keep the machine from its updates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from luod.errors import LuodError
from luod.ipc.types.phases import Phase, Standing, VotePhase

LATE: Final = "it did not vote in time"
BYTES_A_SECOND: Final = 100 * 1024 * 1024
"""What PRESERVE is given time for: half of what was measured where every page had to be moved (H3)."""


class NotAwaited(LuodError):
    """This is not what is awaited from that member now; nothing has changed."""


@dataclass(frozen=True)
class Member:
    """One participant. `standing` is of this phase, reached `since` (seconds)."""

    id: int
    name: str
    since: float
    standing: Standing = "awaited"
    preparing_bytes: int = 0
    """To be preserved while preparing, after a grant."""
    freezing_bytes: int = 0
    """To be preserved while frozen, at most."""
    asked: int | None = None
    """Its place in the queue for a grant; None: it asks for none."""
    reason: str | None = None
    bystander: bool = False
    """It has declared no session."""

    @property
    def open(self) -> bool:
        return self.standing in ("awaited", "granted")


@dataclass(frozen=True)
class Transaction:
    """`patience` is the seconds of each phase, to which the bytes add, but no more than `most_bytes`, which is what the
    machine has: what is declared is what somebody says. `began` is when this phase did.
    """

    members: Mapping[int, Member]
    patience: float
    began: float
    skip_unready: bool = False
    phase: Phase = "preparing"
    reason: str | None = None
    """Why it was cancelled, for people."""
    asks: int = field(default=0, repr=False)
    most_bytes: int = 2**63

    @classmethod
    def begin(
        cls,
        names: Iterable[tuple[int, str]],
        *,
        patience: float,
        skip_unready: bool,
        now: float,
        bystanders: Collection[int] = (),
        most_bytes: int = 2**63,
    ) -> Transaction:
        members = {id: Member(id, name, now, bystander=id in bystanders) for id, name in names}
        return cls(MappingProxyType(members), patience, now, skip_unready, most_bytes=most_bytes)

    def join(self, id: int, name: str, now: float, *, bystander: bool = False) -> Transaction:
        """One more member, which began to follow while the others prepare. NotAwaited: it is another phase."""
        if self.phase != "preparing":
            raise NotAwaited(f"it is {self.phase}, not preparing")
        return self._with(Member(id, name, now, bystander=bystander))

    @property
    def awaited(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members.values() if member.open)

    @property
    def settled(self) -> bool:
        """Whether nothing more is to be waited for in this phase."""
        return self.phase in ("jumping", "cancelled") or not self.awaited

    @property
    def granted(self) -> Member | None:
        return next((member for member in self.members.values() if member.standing == "granted"), None)

    @property
    def deadline(self) -> float:
        frozen = self.phase != "preparing"
        to_preserve = sum(m.freezing_bytes if frozen else m.preparing_bytes for m in self.members.values())
        return self.began + self.patience + min(to_preserve, self.most_bytes) / BYTES_A_SECOND

    def declared(self, id: int, *, preparing_bytes: int, freezing_bytes: int, bystander: bool = False) -> Transaction:
        """A member says what it has to preserve; with bytes to preserve now it queues for a grant.

        NotAwaited: in another phase, after its vote, and while it has the grant.
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
            member, preparing_bytes=preparing_bytes, freezing_bytes=freezing_bytes, asked=asked, bystander=bystander
        )
        return replace(self._with(changed), asks=asks)

    def turn(self) -> Member | None:
        """Who is to be granted next: the longest in the queue, when nobody has the grant."""
        if self.phase != "preparing" or self.granted is not None:
            return None
        queue = [member for member in self.awaited if member.asked is not None]
        return min(queue, key=lambda member: member.asked or 0, default=None)

    def grant(self, now: float) -> Transaction:
        """Gives the grant to whose turn it is. NotAwaited: it is nobody's."""
        member = self.turn()
        if member is None:
            raise NotAwaited("no participant is to preserve now")
        return self._with(replace(member, standing="granted", since=now))

    def ready(self, id: int, phase: VotePhase, now: float) -> Transaction:
        """NotAwaited: another phase, voted already, lost, or files declared for a grant that has not come."""
        member = self._awaited(phase, id)
        if phase == "preparing" and member.standing == "awaited" and member.asked is not None:
            raise NotAwaited("it declared files to preserve and has no grant yet", hint="wait for the event granted")
        return self._with(replace(member, standing="ready", since=now))

    def veto(self, id: int, phase: VotePhase, reason: str, now: float) -> Transaction:
        """Cancels. While freezing it is heard after `ready`, too. NotAwaited: another phase; lost, or a bystander."""
        member = self._member(phase, id)
        if member.bystander:
            raise NotAwaited("it has declared no session, so it cannot veto the update", hint="declare one first")
        if not member.open and not (phase == "freezing" and member.standing == "ready"):
            raise NotAwaited("it has voted already" if member.standing == "ready" else "the update goes on without it")
        changed = self._with(replace(member, standing="vetoed", since=now, reason=reason))
        return changed.cancel(f"{member.name} vetoes: {reason}")

    def gone(self, id: int, now: float) -> Transaction:
        """A member's connection is closed. Past the last abort that changes nothing: its sessions are ready."""
        member = self.members.get(id)
        if member is None or member.standing == "lost" or self.phase in ("jumping", "cancelled"):
            return self
        changed = self._with(replace(member, standing="lost", since=now, reason="it is gone"))
        return changed if self.skip_unready or member.bystander else changed.cancel(f"{member.name} is gone")

    def short(self, id: int, reason: str, now: float) -> Transaction:
        """There is no memory for what a member would preserve: the end, or with `skip_unready` a loss."""
        if not self.skip_unready:
            return self.cancel(reason)
        return self._with(replace(self.members[id], standing="lost", since=now, reason=reason))

    def tick(self, now: float) -> Transaction:
        """The clock says `now`: silence past the deadline is a veto, or with `skip_unready` a loss."""
        late = self.awaited
        if self.phase not in ("preparing", "freezing") or now < self.deadline or not late:
            return self
        changed = self
        for member in late:
            changed = changed._with(replace(member, standing="lost", since=now, reason=LATE))
        late = tuple(member for member in late if not member.bystander)
        if self.skip_unready or not late:
            return changed
        names = ", ".join(member.name for member in late[:5]) + (", …" if len(late) > 5 else "")
        return changed.cancel(f"no vote in {self.phase} in time from {names}")

    def freeze(self, now: float) -> Transaction:
        """From preparing to freezing, without bystanders. NotAwaited: somebody has not voted; another phase."""
        self._settled("preparing")

        def next_of(member: Member) -> Member:
            if member.standing == "lost":
                return member
            if member.bystander:
                return replace(member, standing="lost", since=now, reason="it has declared no session")
            return replace(member, standing="awaited", since=now)

        members = {id: next_of(member) for id, member in self.members.items()}
        return replace(self, phase="freezing", began=now, members=MappingProxyType(members))

    def jump(self, now: float) -> Transaction:
        """From freezing to jumping: no abort from here on. NotAwaited as of `freeze`."""
        self._settled("freezing")
        return replace(self, phase="jumping", began=now)

    def cancel(self, reason: str) -> Transaction:
        """By an abort or a failure. NotAwaited: reboot(2) is under way, so only `returned` can. Twice is once."""
        if self.phase == "jumping":
            raise NotAwaited("the kexec has begun and cannot be vetoed any more")
        return self if self.phase == "cancelled" else replace(self, phase="cancelled", reason=reason)

    def returned(self, reason: str) -> Transaction:
        """reboot(2) came back, or was never reached: the one way out of jumping. NotAwaited: it is another phase."""
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
