"""The exception of a phase's block, kept until the guest was resumed: an error of the VMM must not be lost.

The block raises, which is a veto. The update is cancelled, and the block of `cancelled` resumes the guest. Then the
exception is raised again. There is no I/O here.
"""

from __future__ import annotations

from luod.errors import DaemonUnreachable, WrongPhase
from luod.ipc.client.participation import said_of
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.ipc.client.participation import Event

_GUEST_RESUMES: Final = ("cancelled", "lost")


class Failure:
    """The first exception of an update that is not raised again yet, if there is one."""

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._overdue = False
        """Whether the phase that raises it at its end was handed out."""
        self._resuming = False
        """Whether the block of that phase runs."""

    def vetoes(self, event: Event) -> str | None:
        """Returns the reason of the veto to give in place of handing `event` out; None to hand it out."""
        if event.kind in _GUEST_RESUMES:
            self._overdue = self._error is not None
        elif self._error is not None and event.votes_in is not None:
            return said_of(self._error)
        return None

    def entered(self, event: Event) -> None:
        self._resuming = event.kind in _GUEST_RESUMES

    def left(self, event: Event, error: BaseException | None, *, counted: bool) -> bool:
        """Records the end of a block. Returns whether the exception ends there. `counted`: luod accepted the veto."""
        if event.kind in _GUEST_RESUMES:
            self._resuming = False
            self.raise_again(error)
            return False
        if event.votes_in is None or not isinstance(error, Exception):
            return False  # a KeyboardInterrupt or CancelledError is not kept
        # If the veto did not count, these only say that the update, or luod, is gone, as the next phase does.
        is_news = counted or not isinstance(error, WrongPhase | DaemonUnreachable)
        if is_news and self._error is None:
            self._error = error
        return True

    def raise_overdue(self) -> None:
        """Raises it where the guest was resumed outside of `with`."""
        if self._overdue:
            self.raise_again(None)

    def raise_at_close(self) -> None:
        """Raises it where no later phase could raise it."""
        if not self._resuming:
            self.raise_again(None)

    def raise_again(self, during: BaseException | None) -> None:
        """Raises it, if there is one. If `during` is being raised already, adds a note to that."""
        error, self._error, self._overdue = self._error, None, False
        if error is None or error is during:
            return
        if during is None:
            raise error
        during.add_note(f"before that, a phase of the update raised {said_of(error)}")
        if during.__context__ is None:
            during.__context__ = error
