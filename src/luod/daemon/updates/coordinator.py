"""The coordinator of one update: the state machine of `luod.daemon.updates.transaction` with its clock, its
participants, its news.

Tells participants what they wait for, takes what they say, hands out grants, and tells the operator what changes. It
neither touches sessions nor the kernel: `luod.daemon.updates.update` drives it, and `luod.daemon.updates.participants`
brings in what participants say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from time import monotonic
from typing import Final

from luod.daemon import memory_grants
from luod.daemon.log import Log
from luod.daemon.updates.follower import Follower
from luod.daemon.updates.transaction import LATE, Member, Transaction
from luod.errors import LuodError, NotEnoughMemory
from luod.ipc.types.admin import Participant, Progress
from luod.ipc.types.phases import Ballot, EventKind, State, VotePhase
from luod.ipc.types.updates import DeclaredFile, Event

_DELIVERY_SECONDS: Final = 5.0
"""For everybody to take an event, and for the operator to take the news, before the jump."""
_DEVICES_NAMED: Final = 5
"""To the operator; each participant is told all of its own."""
_INIT: Final = 1
"""In its cgroup nobody is limited but by the machine."""


class Coordinator:
    """One update, from when it is asked for to its end. `orphans` are judged sessions that nobody follows for."""

    def __init__(self, id: str, patience: float, skip_unready: bool, orphans: Iterable[str], log: Log) -> None:
        self.id: Final = id
        self.generation = 0
        self.orphans: Final = list(orphans)
        self.error: LuodError | None = None
        """Why it was cancelled before anybody was asked; for the operator."""
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
        self._log = log
        self._changed = asyncio.Event()
        self._news = asyncio.Event()
        self._news.set()
        self._told = asyncio.Event()
        self._changed_members: set[int] = set()
        self._note: str | None = None
        self._came_back = False

    @property
    def cancelled(self) -> bool:
        return self.transaction.phase == "cancelled"

    @property
    def jumping(self) -> bool:
        return self.transaction.phase == "jumping"

    @property
    def begun_preparing(self) -> bool:
        """Whether participants were told, and one more may join them."""
        return self.generation > 0 and self.transaction.phase == "preparing"

    @property
    def state(self) -> State:
        """As participants are told it: a cancelled update is none any more."""
        return "idle" if self.transaction.phase == "cancelled" else self.transaction.phase

    # What the update does with it.

    def begin(self, followers: Iterable[Follower], generation: int) -> None:
        """Everybody who follows now has a part, and is told that it is preparing."""
        self.generation = generation
        names, bystanders = [], set()
        for follower in followers:
            self.members[follower.id] = follower
            names.append((follower.id, follower.name))
            if not follower.sessions:
                bystanders.add(follower.id)
        began = Transaction.begin(
            names,
            patience=self.transaction.patience,
            skip_unready=self.transaction.skip_unready,
            now=monotonic(),
            bystanders=bystanders,
            most_bytes=self.transaction.most_bytes,
        )
        if not self.cancelled:
            self._change(began)
            self._log("preparing", update=self.id, generation=generation, participants=len(names))
            self.tell("preparing")

    def rehearse(self, followers: Iterable[Follower]) -> None:
        """Counts everybody in, and tells nobody."""
        for follower in followers:
            self.members[follower.id] = follower
            self._join(follower)

    def join(self, follower: Follower) -> None:
        """One who began to follow while it is preparing, and was told so."""
        self.members[follower.id] = follower
        self._join(follower)
        self._tell(follower, "preparing")

    def _join(self, follower: Follower) -> None:
        bystander = not follower.sessions
        self._change(self.transaction.join(follower.id, follower.name, monotonic(), bystander=bystander))

    async def settle(self) -> None:
        """Returns when nobody is awaited in this phase, or it is cancelled. Keeps the deadline, gives grants."""
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
        """Waits for `step`, but no longer than until the update is cancelled; the step goes on behind. Its errors."""
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

    def _grant(self) -> None:
        while (member := self.transaction.turn()) is not None:
            follower = self.members[member.id]
            if self._fits(follower.files("preparing"), follower, follower.peer.process, follower.name):
                self._change(self.transaction.grant(monotonic()))
                self._tell(follower, "granted")

    def _fits(self, files: list[DeclaredFile], follower: Follower, process: int | None, name: str) -> bool:
        """Whether there is memory to preserve `files`. If not, the update is cancelled, or the follower is lost."""
        try:
            memory_grants.require(files, process, name)
        except NotEnoughMemory as error:
            self._change(self.transaction.short(follower.id, error.message, monotonic()))
            return False
        return True

    def _fit_together(self, wanted: list[tuple[Follower, list[DeclaredFile]]]) -> None:
        try:
            everything = [file for _follower, files in wanted for file in files]
            memory_grants.require(everything, _INIT, "all that is written while frozen")
        except NotEnoughMemory as error:
            if not self.transaction.skip_unready:
                self._change(self.transaction.cancel(error.message))
                return
            everything = []
            for follower, files in wanted:
                more = [*everything, *files]
                if files and self._fits(more, follower, _INIT, f"{follower.name} and those before it"):
                    everything = more

    def freeze(self) -> None:
        """Everybody is told to pause, and it is the blackout from here on, unless memory is short: then it may be
        cancelled, and nobody was told.
        """
        ready = [self.members[m.id] for m in self.transaction.members.values() if m.standing == "ready"]
        wanted = [(f, f.files("freezing")) for f in ready]
        fitting = [(f, files) for f, files in wanted if self._fits(files, f, f.peer.process, f.name)]
        if not self.cancelled:
            self._fit_together(fitting)
        if self.cancelled:
            return
        self.preparing = {id: member.since - self.begun for id, member in self.transaction.members.items()}
        now = monotonic()
        self.frozen = now
        self.preparing_seconds = now - self.begun
        self._change(self.transaction.freeze(now))
        self._log("freezing", update=self.id, after_seconds=f"{self.preparing_seconds:.3f}")
        self.tell("freezing")

    async def announce(self) -> None:
        """Tells everybody that it jumps, and returns when all have it: who has not would resume if luod died now."""
        self.tell("jumping", state="jumping")
        waits = {
            asyncio.ensure_future(follower.events.delivered()): follower
            for id, follower in self.members.items()
            if self.transaction.members[id].standing == "ready"
        }
        if waits:
            await asyncio.wait(waits, timeout=_DELIVERY_SECONDS)
        for wait, follower in waits.items():
            if not wait.done():
                wait.cancel()
                self.gone(follower)

    def jump(self) -> None:
        self.jumped = monotonic()
        self._change(self.transaction.jump(self.jumped))

    async def told(self) -> None:
        """Returns when the operator knows that it jumps, or takes too long to."""
        try:
            await asyncio.wait_for(self._told.wait(), _DELIVERY_SECONDS)
        except TimeoutError:
            self._log.warning("operator-slow", update=self.id)

    def note(self, text: str) -> None:
        """News for the operator while it jumps."""
        self._note = text
        self._news.set()

    def cancel(self, reason: str) -> None:
        """NotAwaited: it is jumping."""
        self._change(self.transaction.cancel(reason))

    def end(self, reason: str) -> None:
        """Cancels in whatever phase: reboot(2) is not, or no longer, under way."""
        self._change(self.transaction.returned(reason) if self.jumping else self.transaction.cancel(reason))

    def came_back(self, reason: str) -> None:
        """reboot(2) has returned. Devices that were frozen before what failed are not as they were (H22)."""
        self._came_back = True
        devices = [f"{d.session}/{d.name or d.token}" for f in self.members.values() for d in f.devices]
        if devices:
            more = ", …" if len(devices) > _DEVICES_NAMED else ""
            named = ", ".join(devices[:_DEVICES_NAMED]) + more
            reason += f"; it may have reset these devices, or left them dead until their driver is bound again: {named}"
        self.end(reason)

    # What participants do.

    def declared(self, follower: Follower) -> float:
        """A member has declared. The seconds it has left. NotAwaited."""
        preparing, freezing = (sum(file.size for file in follower.files(when)) for when in ("preparing", "freezing"))
        self._change(
            self.transaction.declared(
                follower.id,
                preparing_bytes=preparing,
                freezing_bytes=freezing,
                bystander=not follower.sessions,
            )
        )
        return self.left()

    def vote(self, follower: Follower, phase: VotePhase, vote: Ballot, reason: str | None) -> None:
        """NotAwaited."""
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

    def left(self) -> float:
        return max(0.0, self.transaction.deadline - monotonic())

    def tell(self, kind: EventKind, *, state: State | None = None) -> None:
        """Tells every member, lost ones of the end only."""
        for id, follower in self.members.items():
            if kind == "cancelled" or self.transaction.members[id].standing != "lost":
                self._tell(follower, kind, state)

    def _tell(self, follower: Follower, kind: EventKind, state: State | None = None) -> None:
        deadline = self.left() if kind in ("preparing", "granted", "freezing") else None
        reason = self.transaction.reason if kind == "cancelled" else None
        frozen = None if kind != "cancelled" else follower.devices if self._came_back else []
        if kind == "lost":
            reason = self.transaction.members[follower.id].reason
        follower.events.put(
            Event(
                kind,
                state or self.state,
                update=self.id,
                generation=self.generation,
                deadline=deadline,
                reason=reason,
                frozen_devices=frozen,
            )
        )

    def _change(self, changed: Transaction) -> None:
        before, self.transaction = self.transaction, changed
        if changed == before:
            return
        bystanders: dict[str | None, list[str]] = {}
        for id, member in changed.members.items():
            old = before.members.get(id)
            if old is not member:
                self._changed_members.add(id)
                if member.standing == "lost" and not changed.reason:
                    self._tell(self.members[id], "lost")
                    if member.bystander:
                        bystanders.setdefault(member.reason, []).append(member.name)
                    else:
                        self._log.warning("lost", update=self.id, participant=member.name, reason=member.reason)
        self._note_bystanders(bystanders)
        self._changed.set()
        self._news.set()

    def _note_bystanders(self, lost: dict[str | None, list[str]]) -> None:
        """Writes one line, however many they are: anybody may follow. Only silence delays the others."""
        for reason, names in lost.items():
            write = self._log.warning if reason == LATE else self._log.debug
            write("bystanders", update=self.id, participants=len(names), first=", ".join(names[:5]), reason=reason)

    # What the operator sees.

    async def news(self) -> Progress:
        """What has changed since the last call; waits until something has."""
        await self._news.wait()
        self._news.clear()
        return self.progress()

    def progress(self) -> Progress:
        """What has changed since the last call."""
        transaction = self.transaction
        changed, self._changed_members = sorted(self._changed_members), set()
        lost = [m.id for m in transaction.members.values() if m.standing == "lost"]
        # After a cancelled update nothing is torn: no jump came.
        torn = [] if self.cancelled else self.orphans + [name for id in lost for name in self.members[id].names]
        return Progress(
            state=transaction.phase,
            update=self.id,
            generation=self.generation,
            seconds_left=self.left() if transaction.phase in ("preparing", "freezing") else None,
            participants=[self._participant(transaction.members[id]) for id in changed],
            torn=torn,
            reason=transaction.reason or self._note,
        )

    def operator_has(self, progress: Progress) -> None:
        """The operator has taken this news."""
        if progress.state == "jumping":
            self._told.set()

    def _participant(self, member: Member) -> Participant:
        follower = self.members[member.id]
        since = self.transaction.began
        # A member that is awaited has reached nothing yet: its time runs on, from when it was first awaited.
        seconds = monotonic() - max(member.since, since) if member.standing == "awaited" else member.since - since
        return Participant(
            id=member.id,
            name=member.name,
            uid=follower.peer.uid,
            pid=follower.peer.pid,
            sessions=follower.names,
            bytes=sum(file.size for session in follower.sessions for file in session.files),
            standing=member.standing,
            reason=member.reason,
            seconds=round(max(0.0, seconds), 6),
        )
