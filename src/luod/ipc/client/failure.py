"""What the block of a phase raised, kept until the guest was resumed: an error of the VMM's must not vanish.

The block raises, which is a veto; the update is cancelled; the block of `cancelled` resumes the guest; then the error
is raised again. There is no I/O here.
"""

from __future__ import annotations

from typing import Final

from luod.errors import DaemonUnreachable, WrongPhase
from luod.ipc.client.participation import Event, said_of

_GUEST_RESUMES: Final = ("cancelled", "lost")


class Failure:
    """The first exception of an update that has still to be raised again, if there is one."""

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._overdue = False
        """Whether the phase at whose end it is raised was handed out."""
        self._resuming = False
        """Whether the block of that phase runs."""

    def vetoes(self, event: Event) -> str | None:
        """Returns the reason of the veto to give in place of handing `event` out; None: it is to be handed out."""
        if event.kind in _GUEST_RESUMES:
            self._overdue = self._error is not None
        elif self._error is not None and event.votes_in is not None:
            return said_of(self._error)
        return None

    def entered(self, event: Event) -> None:
        self._resuming = event.kind in _GUEST_RESUMES

    def left(self, event: Event, error: BaseException | None, *, counted: bool) -> bool:
        """Takes what a block ended with; returns whether the exception ends there. `counted`: luod took the veto."""
        if event.kind in _GUEST_RESUMES:
            self._resuming = False
            self.raise_again(error)
            return False
        if event.votes_in is None or not isinstance(error, Exception):
            return False  # a KeyboardInterrupt, or a CancelledError, goes on
        # Where the veto did not count, these only say that the update, or luod, is gone, as the next phase does.
        is_news = counted or not isinstance(error, WrongPhase | DaemonUnreachable)
        if is_news and self._error is None:
            self._error = error
        return True

    def raise_overdue(self) -> None:
        """Raises it where the guest was resumed outside of `with`."""
        if self._overdue:
            self.raise_again(None)

    def raise_at_close(self) -> None:
        """Raises it where no phase comes any more at whose end it could be."""
        if not self._resuming:
            self.raise_again(None)

    def raise_again(self, during: BaseException | None) -> None:
        """Raises it, if there is one. Where `during` goes on its way already, a note in that tells of it."""
        error, self._error, self._overdue = self._error, None, False
        if error is None or error is during:
            return
        if during is None:
            raise error
        during.add_note(f"before that, a phase of the update raised {said_of(error)}")
        if during.__context__ is None:
            during.__context__ = error
