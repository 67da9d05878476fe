"""The coordinator of one update: gives `luod.daemon.updates.transaction` a clock, and its participants their events.

`luod.daemon.updates.stages` drives it, and `luod.daemon.updates.participants` passes on the participants' calls.
`luod.daemon.updates.memory_checks` checks memory, `luod.daemon.updates.progress` has the operator's reports.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from luod.daemon import memory_grants
from luod.daemon.run_state import Run, RunState
from luod.daemon.updates import memory_checks
from luod.daemon.updates.follower import delivered
from luod.daemon.updates.progress import ProgressFeed
from luod.daemon.updates.transaction import LATE, NotAwaited, Transaction
from luod.ipc.types.updates import Event, FrozenDevice
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from luod.daemon.log import Log
    from luod.daemon.updates.follower import Follower
    from luod.errors import LuodError
    from luod.ipc.types.admin import Progress
    from luod.ipc.types.phases import Ballot, EventKind, Phase, State, VotePhase, Way

_DEVICES_NAMED: Final = 5
"""The number of devices in the operator's message. Each participant gets all of its own."""
_ENTERED: Final[dict[Phase, RunState]] = {
    "preparing": RunState.PREPARING,
    "freezing": RunState.FREEZING,
    "jumping": RunState.JUMPING,
    "cancelled": RunState.CANCELLING,
}
"""The state of luod for a phase of the transaction."""


class Coordinator:
    """One update, from its acceptance to its end. `unfollowed` are judged sessions without a follower.

    Each change of the transaction's phase enters a state of `run`.
    """

    def __init__(
        self, id: str, way: Way, patience: float, skip_unready: bool, unfollowed: Iterable[str], run: Run, log: Log
    ) -> None:
        self.id: Final = id
        self.way: Final = way
        self.generation = 0
        self.unfollowed: Final = list(unfollowed)
        self.error: LuodError | None = None
        """The error that cancelled it before the first participant was asked, for the operator."""
        self.members: dict[int, Follower] = {}
        self.transaction = Transaction.begin(
            [], patience=patience, skip_unready=skip_unready, now=monotonic(), most_bytes=memory_grants.machine()
        )
        self.begun = monotonic()
        self.frozen = 0.0
        """When freezing began; as `begun`, seconds of the monotonic clock. 0: it did not."""
        self.jumped = 0.0
        self.preparing_seconds = 0.0
        self.preparing: dict[int, float] = {}
        """Seconds that each member took to be ready in preparing."""
        self.feed: Final = ProgressFeed()
        self._run = run
        self._log = log
        self._changed = asyncio.Event()
        self._came_back = False
        self.preserving: Follower | None = None
        """The last follower that was granted to preserve, here or in an earlier update, until it has answered that."""
        self._latecomers: list[Follower] = []
        """Followers that began during the kexec, and wait for its end."""

    @property
    def cancelled(self) -> bool:
        return self.transaction.phase == "cancelled"

    # Steps of the update.

    def begin(self, followers: Iterable[Follower], generation: int) -> None:
        """Makes all present followers members, and tells them that it is preparing."""
        self.generation = generation
        names, observers = [], set()
        for follower in followers:
            self.members[follower.id] = follower
            names.append((follower.id, follower.name))
            if not follower.sessions:
                observers.add(follower.id)
        began = Transaction.begin(
            names,
            patience=self.transaction.patience,
            skip_unready=self.transaction.skip_unready,
            now=monotonic(),
            observers=observers,
            most_bytes=self.transaction.most_bytes,
        )
        if not self.cancelled:
            self._run.enter(RunState.PREPARING, update=self.id, generation=generation, participants=len(names))
            self._change(began)
            self.tell("preparing")

    def join(self, follower: Follower) -> None:
        """Adds a follower that began while it is preparing, and was told so."""
        self.members[follower.id] = follower
        observer = not follower.sessions
        self._change(self.transaction.join(follower.id, follower.name, monotonic(), observer=observer))
        self._tell(follower, "preparing")

    def wait_for_the_end(self, follower: Follower) -> None:
        """Has a follower told of the cancellation that began during the kexec, such as one whose connection broke.

        It was told to stay paused.
        """
        self._latecomers.append(follower)

    async def settle(self) -> None:
        """Returns when no member is awaited in this phase, or it is cancelled. Keeps the deadline, gives grants."""
        while True:
            self._change(self.transaction.tick(monotonic()))
            self._grant()
            if self.transaction.settled:
                return
            self._changed.clear()
            left = max(0.0, self.transaction.deadline - monotonic())
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                continue

    async def unless_cancelled(self, step: Awaitable[object]) -> None:
        """Waits for `step`, at most until the update is cancelled; the step continues then. Raises its errors."""
        task = asyncio.ensure_future(step)
        while not task.done() and not self.cancelled:
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait((task, changed), return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        if task.done():
            task.result()
        else:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def answered(self, follower: Follower) -> None:
        """Records that a follower has ended what it was granted to preserve."""
        if self.preserving is follower:
            self.preserving = None
            self._changed.set()

    def _grant(self) -> None:
        """Grants in turn. A member of an earlier update, which was cancelled, may still preserve: it is waited for, but
        not where the others would be lost with it.
        """
        while (member := self.transaction.turn()) is not None:
            if self.preserving is not None and not self.transaction.skip_unready:
                return
            follower = self.members[member.id]
            checked = memory_checks.before_grant(self.transaction, follower, monotonic())
            if checked is self.transaction:
                self._change(self.transaction.grant(monotonic()))
                self.preserving = follower
                self._tell(follower, "granted")
            else:
                self._change(checked)

    def freeze(self) -> None:
        """Tells every member to pause, which starts the blackout.

        If memory is short it may be cancelled instead, and no member was told.
        """
        ready = [self.members[m.id] for m in self.transaction.members.values() if m.standing == "ready"]
        self._change(memory_checks.before_freezing(self.transaction, ready, monotonic()))
        if self.cancelled:
            return
        self.preparing = {id: member.since - self.begun for id, member in self.transaction.members.items()}
        now = monotonic()
        self.frozen = now
        self.preparing_seconds = now - self.begun
        self._change(self.transaction.freeze(now), after_seconds=f"{self.preparing_seconds:.3f}")
        self.tell("freezing")

    async def announce(self) -> None:
        """Tells every member that the kexec begins, and returns when all have the event.

        A member without it would resume if luod died now.
        """
        self.tell("jumping", state="jumping")
        ready = [self.members[id] for id, member in self.transaction.members.items() if member.standing == "ready"]
        await delivered(ready)
        for follower in ready:
            if not follower.events.empty:
                self.gone(follower)

    def jump(self, ready: int) -> None:
        """Begins the kexec, which only a return of reboot(2) stops from here on.

        `ready` sessions are carried as such.
        """
        self.jumped = monotonic()
        frozen = f"{self.jumped - self.frozen:.3f}"
        self._change(self.transaction.jump(self.jumped), ready=ready, frozen_seconds=frozen)

    def cancel(self, reason: str) -> None:
        """Cancels the update. Raises NotAwaited: the kexec has begun."""
        self._change(self.transaction.cancel(reason))

    def cancel_if_possible(self, reason: str) -> bool:
        """Cancels the update unless the kexec has begun. Returns whether it is cancelled."""
        try:
            self.cancel(reason)
        except NotAwaited:
            return False
        return True

    def end(self, reason: str) -> None:
        """Cancels in any phase: reboot(2) is not, or no longer, under way."""
        jumping = self.transaction.phase == "jumping"
        self._change(self.transaction.returned(reason) if jumping else self.transaction.cancel(reason))

    def came_back(self, reason: str) -> None:
        """Records that reboot(2) has returned. Devices that were frozen before the failure have changed
        (docs/hazards.md, H22).
        """
        self._came_back = True
        devices = [f"{d.session}/{d.name or d.token}" for f in self.members.values() for d in f.devices]
        if devices:
            more = ", …" if len(devices) > _DEVICES_NAMED else ""
            named = ", ".join(devices[:_DEVICES_NAMED]) + more
            reason += f"; it may have reset these devices, or left them dead until their driver is bound again: {named}"
        self.end(reason)

    # Calls of participants.

    def declared(self, follower: Follower) -> float:
        """Records a member's declaration. Returns the seconds it has left. Raises NotAwaited."""
        preparing, freezing = (sum(file.size for file in follower.files(when)) for when in ("preparing", "freezing"))
        self._change(
            self.transaction.declared(
                follower.id,
                preparing_bytes=preparing,
                freezing_bytes=freezing,
                observer=not follower.sessions,
            )
        )
        return self.left()

    def vote(self, follower: Follower, phase: VotePhase, vote: Ballot, reason: str | None) -> None:
        """Records a vote. Raises NotAwaited."""
        now = monotonic()
        if vote == "ready":
            self._change(self.transaction.ready(follower.id, phase, now))
        else:
            self._change(self.transaction.veto(follower.id, phase, (reason or "it gives no reason")[:500], now))
        self._log.debug("vote", update=self.id, participant=follower.name, phase=phase, vote=vote)

    def gone(self, follower: Follower) -> None:
        self._change(self.transaction.gone(follower.id, monotonic()))

    def takes_part(self, follower: Follower) -> bool:
        member = self.transaction.members.get(follower.id)
        return member is not None and member.standing != "lost"

    def has_grant(self, follower: Follower) -> bool:
        """Returns whether a follower may preserve now, by this update."""
        granted = None if self.cancelled else self.transaction.granted
        return granted is not None and granted.id == follower.id

    def left(self) -> float:
        return max(0.0, self.transaction.deadline - monotonic())

    def tell(self, kind: EventKind, *, state: State | None = None) -> None:
        """Tells every member, lost ones of the end only."""
        for id, follower in self.members.items():
            if kind == "cancelled" or self.transaction.members[id].standing != "lost":
                self._tell(follower, kind, state)
        for follower in self._latecomers if kind == "cancelled" else ():
            self._tell(follower, kind, state)

    def _tell(self, follower: Follower, kind: EventKind, state: State | None = None) -> None:
        deadline = self.left() if kind in ("preparing", "granted", "freezing") else None
        reason = self.transaction.reason if kind == "cancelled" else None
        frozen: list[FrozenDevice] | None = None
        if kind == "cancelled" and not self._came_back:
            frozen = []
        elif kind == "cancelled" and follower.id in self.members:  # of another nothing is declared
            frozen = follower.devices
        if kind == "lost":
            reason = self.transaction.members[follower.id].reason
        follower.events.put(
            Event(
                kind,
                state or self._run.told,
                update=self.id,
                generation=self.generation,
                deadline=deadline,
                reason=reason,
                frozen_devices=frozen,
            )
        )

    def _change(self, changed: Transaction, **details: object) -> None:
        """Changes the transaction; no other method does. `details` are for the log, of another phase."""
        before, self.transaction = self.transaction, changed
        if changed == before:
            return
        if changed.phase != before.phase:
            self._run.enter(_ENTERED[changed.phase], update=self.id, **details)
        members = [(id, member) for id, member in changed.members.items() if before.members.get(id) is not member]
        observers: dict[str | None, list[str]] = {}
        for id, member in members:
            if member.standing == "lost" and not changed.reason:
                self._tell(self.members[id], "lost")
                if member.observer:
                    observers.setdefault(member.reason, []).append(member.name)
                else:
                    self._log.warning("lost", update=self.id, participant=member.name, reason=member.reason)
        self._note_observers(observers)
        self._changed.set()
        self.feed.changed(id for id, _member in members)

    def _note_observers(self, lost: dict[str | None, list[str]]) -> None:
        """Writes one line, for any number of them: every user may follow. Only silence delays the others."""
        for reason, names in lost.items():
            write = self._log.warning if reason == LATE else self._log.debug
            write("observers", update=self.id, participants=len(names), first=", ".join(names[:5]), reason=reason)

    # Reports to the operator.

    async def news(self) -> Progress:
        """Returns the changes since the last call; waits for one."""
        await self.feed.wait()
        return self.progress()

    def progress(self) -> Progress:
        return self.feed.report(self.id, self.generation, self.transaction, self.members, self.unfollowed, self.way)
