"""The reports to the operator of an update: the changes since the last one, and whether that one was read."""

from __future__ import annotations

import asyncio
from time import monotonic

from luod.ipc.types.admin import Participant, Progress
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from luod.daemon.updates.follower import Follower
    from luod.daemon.updates.transaction import Member, Transaction
    from luod.ipc.types.phases import Way


class ProgressFeed:
    """The members that changed since the last report, and a note. It begins with changes."""

    def __init__(self) -> None:
        self._members: set[int] = set()
        self._note: str | None = None
        self._news = asyncio.Event()
        self._news.set()
        self._jump_read = asyncio.Event()
        self.detached = False
        """Whether the operator is told no more, and the update goes on without the connection."""

    def changed(self, members: Iterable[int]) -> None:
        """Records a change, and these members with it."""
        self._members.update(members)
        self._news.set()

    def note(self, text: str) -> None:
        """Reports a text during the kexec."""
        self._note = text
        self._news.set()

    async def wait(self) -> None:
        """Waits until there is something to report. The caller must report it."""
        await self._news.wait()
        self._news.clear()

    def report(
        self,
        update: str,
        generation: int,
        transaction: Transaction,
        followers: Mapping[int, Follower],
        unfollowed: Sequence[str],
        way: Way,
    ) -> Progress:
        """Returns what changed since the last report."""
        changed, self._members = sorted(self._members), set()
        return report(update, generation, transaction, followers, unfollowed, way=way, changed=changed, note=self._note)

    def read(self, progress: Progress) -> None:
        """Records that the operator has read this report."""
        if progress.state == "jumping":
            self._jump_read.set()

    def detach(self) -> None:
        """Tells the operator that all are ready, as the last report."""
        self.detached = True
        self._jump_read.set()
        self._news.set()

    def left(self) -> None:
        """Records that no operator reads any more."""
        self._jump_read.set()

    async def jump_read(self, seconds: float) -> bool:
        """Returns whether the operator has read that the kexec begins, or is gone. Waits up to `seconds` for it."""
        try:
            await asyncio.wait_for(self._jump_read.wait(), seconds)
        except TimeoutError:
            return False
        return True


def report(
    update: str,
    generation: int,
    transaction: Transaction,
    followers: Mapping[int, Follower],
    unfollowed: Sequence[str],
    *,
    way: Way,
    changed: Iterable[int],
    note: str | None = None,
) -> Progress:
    """Returns the state of an update with the `changed` members. `unfollowed`: judged sessions without a follower."""
    lost = [id for id, member in transaction.members.items() if member.standing == "lost"]
    # After a cancelled update nothing is torn: there was no kexec.
    cancelled = transaction.phase == "cancelled"
    torn = [] if cancelled else [*unfollowed, *(name for id in lost for name in followers[id].names)]
    timed = transaction.phase in ("preparing", "freezing")
    return Progress(
        state=transaction.phase,
        update=update,
        generation=generation,
        seconds_left=max(0.0, transaction.deadline - monotonic()) if timed else None,
        participants=tuple(_participant(transaction.members[id], followers[id], transaction.began) for id in changed),
        torn=tuple(torn),
        reason=transaction.reason or note,
        way=way,
    )


def _participant(member: Member, follower: Follower, began: float) -> Participant:
    # An awaited member has no result yet: its time counts from the start of the wait.
    seconds = monotonic() - max(member.since, began) if member.standing == "awaited" else member.since - began
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
