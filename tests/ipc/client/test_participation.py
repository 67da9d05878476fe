"""What a workload is told of updates over connections that break: each thing once, in an order it can act on."""

from __future__ import annotations

import errno
import json
from typing import Any, cast

import pytest

from luod.errors import DaemonUnreachable, ProtocolError
from luod.ipc.client import connection
from luod.ipc.client.participation import Event, Participation, PlannedFile, declare, vote
from luod.ipc.framing import Reply
from luod.ipc.types.updates import FrozenDevice
from luod.liveupdate import OutgoingSession
from luod.manifest import Entry


def following(part: Participation, state: str = "idle") -> Event | None:
    return part.begun(Reply({"event": "following", "participant": "t", "state": state}))


def told(part: Participation, kind: str, **members: Any) -> str | None:
    event = part.told(Reply({"event": kind, "generation": 3, **members}))
    return None if event is None else event.kind


def closed_by_luod() -> DaemonUnreachable:
    return unreachable("/run/luod.sock", ConnectionResetError())


def unreachable(path: str, cause: OSError) -> DaemonUnreachable:
    error = connection.unreachable(path, cause)
    error.__cause__ = cause
    return error


def broken(part: Participation, error: Exception | None = None) -> str | None:
    event = part.broken(error or closed_by_luod())
    return None if event is None else event.kind


def test_before_jumping_a_broken_connection_is_the_end_of_the_update() -> None:
    part = Participation("vm", (), ())
    assert following(part) is None
    assert told(part, "preparing") == "preparing"
    assert told(part, "freezing") == "freezing"
    assert broken(part) == "cancelled"
    assert following(part) is None
    # The luod that was started again tells everybody, who know it already.
    assert told(part, "cancelled") is None


def test_after_jumping_it_stays_paused_until_luod_says_that_it_does_not_jump() -> None:
    part = Participation("vm", (), ())
    following(part)
    for kind in ("preparing", "freezing", "jumping"):
        told(part, kind)
    assert broken(part) is None
    assert following(part, "jumping") is None
    assert told(part, "cancelled") == "cancelled"


def test_after_jumping_any_other_state_says_that_it_does_not_jump() -> None:
    part = Participation("vm", (), ())
    following(part)
    for kind in ("preparing", "freezing", "jumping"):
        told(part, kind)
    assert broken(part) is None
    event = following(part, "idle")
    assert event is not None
    assert event.kind == "cancelled"


def test_a_cancelled_update_names_the_devices_that_a_failed_jump_froze() -> None:
    part = Participation("vm", (), ())
    following(part)
    told(part, "preparing")
    event = part.told(Reply({"event": "cancelled", "frozen_devices": [{"session": "vm", "token": 2, "name": "nic"}]}))
    assert event is not None
    assert event.frozen_devices == (FrozenDevice("vm", 2, "nic"),)


def test_when_luod_ends_nobody_knows_of_devices_but_before_jumping() -> None:
    frozen = []
    for kind in ("freezing", "jumping"):
        part = Participation("vm", (), ())
        following(part)
        told(part, kind)
        event = part.broken(closed_by_luod()) or following(part, "idle")
        assert event is not None
        frozen.append(event.frozen_devices)
    assert frozen == [(), None]


@pytest.mark.parametrize("error", [ProtocolError("not Varlink"), unreachable("/", OSError(errno.ENOMEM, "memory"))])
def test_a_frozen_guest_whose_connection_failed_before_its_end_stays_paused_until_luod_answers(
    error: Exception,
) -> None:
    """`jumping` may be in what was not read."""
    for state, kind in (("jumping", None), ("idle", "cancelled")):
        part = Participation("vm", (), ())
        following(part)
        told(part, "preparing")
        told(part, "freezing")
        assert broken(part, error) is None
        event = following(part, state)
        assert (event and event.kind) == kind


def test_luod_is_told_of_files_before_guests_freeze_only() -> None:
    part = Participation("vm", (), ())
    following(part)
    declares = [part.declares]
    for kind in ("preparing", "granted", "freezing", "jumping", "cancelled"):
        told(part, kind)
        part.carry((), ())
        declares.append(part.declares)
    assert declares == [True, True, False, False, False, True]


def test_outside_of_an_update_a_broken_connection_is_nothing_to_tell() -> None:
    part = Participation("vm", (), ())
    following(part)
    assert broken(part) is None


def test_what_a_newer_luod_tells_is_passed_over() -> None:
    part = Participation("vm", (), ())
    following(part)
    assert told(part, "thawing") is None


def test_luod_is_told_what_there_is_once_a_connection() -> None:
    part = Participation("vm", (), ())
    for _connection in range(2):
        following(part)
        assert part.undeclared
        (call,) = list(declare(part))
        assert call.method == "Declare"
        assert list(declare(part)) == []


class Session:
    """A session with a device, as a Participation sees it."""

    name = "vm"
    contents: tuple[Entry, ...] = (
        Entry(1, "ram", "memfd", 4096, 4096, 0),
        Entry(2, "nic", "vfio", 0, 0, 0, "0000:01:00.0"),
    )


def test_h27_luod_is_told_the_address_of_each_device() -> None:
    part = Participation(
        "vm", [cast(OutgoingSession, Session())], [PlannedFile("vm", 0, kind="vfio", device="0000:02:00.0")]
    )
    said = part.news()
    assert said is not None
    assert [file.device for file in said[0].files] == [None, "0000:01:00.0", "0000:02:00.0"]


class Many:
    """A session with more files than are declared one by one."""

    name = "vm"
    contents = (
        *(Entry(token, None, "memfd", 10, 4, 0) for token in range(130)),
        *(Entry(token, None, "memfd", 100, 40, 0x20) for token in range(130, 140)),
        Entry(140, "iommu", "iommufd", 0, 0, 0),
        *(Entry(token, None, "vfio", 0, 0, 0, f"0000:01:00.{token % 8}") for token in range(141, 149)),
    )


def test_files_that_are_summed_up_keep_their_kind_and_seals_and_devices_are_named() -> None:
    (session,) = Participation("vm", [cast(OutgoingSession, Many())], ()).news() or []
    assert [file.kind for file in session.files[:9]] == ["iommufd", *["vfio"] * 8]
    assert all(file.device for file in session.files if file.kind == "vfio")
    summed = {(f.kind, f.seals): (f.name, f.size, f.allocated) for f in session.files if f.name and "more" in f.name}
    assert summed == {("memfd", 0): ("19 more", 190, 76), ("memfd", 0x20): ("10 more", 1000, 400)}
    assert sum(file.size for file in session.files) == 130 * 10 + 10 * 100


def test_more_files_than_are_declared_one_by_one_that_are_no_memory_keep_their_kind() -> None:
    many = Session()
    many.contents = tuple(Entry(token, None, "vfio", 0, 0, 0, "0000:01:00.0") for token in range(121))
    (session,) = Participation("vm", [cast(OutgoingSession, many)], ()).news() or []
    assert {file.kind for file in session.files} == {"vfio"}


def test_a_vetos_reason_is_cut_to_what_luod_takes() -> None:
    (call,) = list(vote("t", Event("freezing"), "no" * 1000))
    sent = json.loads(call.encode()[:-1])
    assert sent["method"] == "io.luod.Updates.Vote"
    assert (sent["parameters"]["vote"], len(sent["parameters"]["reason"])) == ("veto", 500)


def test_a_vote_and_a_declaration_name_the_update_that_they_are_for() -> None:
    (call,) = list(vote("t", Event("freezing", generation=3), None))
    assert (call.parameters or {})["generation"] == 3
    part = Participation("vm", (), ())
    following(part)
    (before,) = list(declare(part))
    told(part, "preparing")
    part.carry((), ())
    (during,) = list(declare(part))
    told(part, "cancelled")
    part.carry((), ())
    (after,) = list(declare(part))
    assert [(call.parameters or {}).get("generation") for call in (before, during, after)] == [None, 3, None]


class Closed:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_frozen_session_that_comes_after_the_end_of_its_update_is_closed() -> None:
    """Another task of asyncio may have been told of the end meanwhile. A later kexec would carry the session."""
    part = Participation("vm", (), ())
    following(part)
    event = part.told(Reply({"event": "freezing", "generation": 3}))
    assert event is not None
    early, late = Closed(), Closed()
    part.froze(early, event)
    assert not early.closed
    told(part, "cancelled")
    part.froze(late, event)
    assert (early.closed, late.closed) == (True, True)
