"""The names of the supervisor's fds lead back to the sessions that they belong to."""

from __future__ import annotations

import pytest

from luod.daemon.store import fd_names
from luod.daemon.store.schema import HeldFile, Image, IncomingRow, OutgoingRow, Row

ROWS = (OutgoingRow("vm.1", 0), OutgoingRow("vm.1", 0, 3), IncomingRow("process.vm", 0), IncomingRow("a/b@c", 0, 2))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.direction} {row.name}")
def test_the_session_of_an_fd_is_found_by_its_name(row: Row) -> None:
    names = [fd_names.fd_name(row), fd_names.process_name(row), fd_names.worker_name(row)]
    if row.direction == "outgoing":
        names.append(fd_names.manifest_name(row))
    else:
        names.append(fd_names.carried_name(row, 7))
    assert {fd_names.session_of(name) for name in names} == {(row.direction, row.name)}
    assert [fd_names.is_carried(name) for name in names] == [False] * 3 + [row.direction == "incoming"]


def test_other_fds_belong_to_no_session() -> None:
    others = (
        fd_names.REGISTRY + "x",
        fd_names.ASIDE,
        fd_names.JUMP,
        fd_names.HOOK,
        fd_names.held_name(HeldFile(1, "a")),
    )
    for name in (*others, *fd_names.image_names(Image(1, True, ""))):
        assert fd_names.session_of(name) is None
