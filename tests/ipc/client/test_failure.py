"""What a block of an update raised: when it is a veto, and where it is raised again. No luod, no session."""

from __future__ import annotations

import pytest

from luod.errors import DaemonUnreachable, WrongPhase
from luod.ipc.client.failure import Failure
from luod.ipc.client.participation import Event

PREPARING, FREEZING, CANCELLED, LOST = (Event(kind) for kind in ("preparing", "freezing", "cancelled", "lost"))


class Slip(Exception):
    pass


def failed(during: Event = FREEZING) -> Failure:
    """Returns a failure with a Slip of the block of this phase."""
    failure = Failure()
    failure.entered(during)
    assert failure.left(during, Slip("of the hand"), counted=True)
    return failure


@pytest.mark.parametrize("end", [CANCELLED, LOST])
def test_it_is_raised_at_the_end_of_the_block_in_which_the_guest_resumes(end: Event) -> None:
    failure = failed()
    assert failure.vetoes(end) is None
    failure.entered(end)
    failure.raise_at_close()  # a participant that is closed there does not skip the rest of the block
    with pytest.raises(Slip, match="hand"):
        failure.left(end, None, counted=False)
    failure.raise_overdue()
    failure.raise_at_close()


def test_until_then_it_vetoes_what_asks_for_a_vote() -> None:
    assert failed(PREPARING).vetoes(FREEZING) == "Slip: of the hand"


def test_it_is_raised_by_the_next_call_where_the_guest_resumed_outside_of_a_block() -> None:
    failure = failed()
    failure.raise_overdue()
    failure.vetoes(CANCELLED)
    with pytest.raises(Slip):
        failure.raise_overdue()


def test_it_is_raised_at_close_where_no_phase_came() -> None:
    with pytest.raises(Slip):
        failed().raise_at_close()


def test_an_error_of_the_resuming_block_tells_of_it() -> None:
    failure, another = failed(), ValueError("another")
    failure.entered(CANCELLED)
    assert not failure.left(CANCELLED, another, counted=False)
    assert another.__notes__ == ["before that, a phase of the update raised Slip: of the hand"]
    assert isinstance(another.__context__, Slip)
    failure.raise_at_close()


@pytest.mark.parametrize("error", [WrongPhase("it is over"), DaemonUnreachable("luod was killed")])
def test_an_update_that_is_over_is_no_failure(error: Exception) -> None:
    failure = Failure()
    assert failure.left(FREEZING, error, counted=False)
    failure.raise_at_close()


def test_an_error_of_luods_that_luod_heard_of_is_one() -> None:
    failure = Failure()
    assert failure.left(FREEZING, DaemonUnreachable("no answer in time"), counted=True)
    with pytest.raises(DaemonUnreachable):
        failure.raise_at_close()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_what_ends_a_program_goes_on_at_once(error: BaseException) -> None:
    failure = Failure()
    assert not failure.left(FREEZING, error, counted=True)
    failure.raise_at_close()


def test_an_error_where_no_vote_is_awaited_goes_on_at_once() -> None:
    assert not Failure().left(Event("jumping"), Slip(), counted=False)
