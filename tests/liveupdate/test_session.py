"""What sessions take as a file: an fd's number, or an object with one. All else is refused without the kernel."""

from __future__ import annotations

import os
from typing import Any

import pytest

from luod.errors import BadInput
from luod.linux import Fd
from luod.liveupdate import IncomingSession, OutgoingSession

NO_FILES: list[Any] = ["x", 1.5, b"3", {3}, ["3"], Fd]


def some_fd() -> Fd:
    return Fd(os.memfd_create("no session"))


@pytest.mark.parametrize("file", [None, *NO_FILES], ids=repr)
def test_preserve_names_what_is_no_file(file: Any) -> None:
    with OutgoingSession(some_fd(), manifest=False) as session, pytest.raises(BadInput, match="a file is"):
        session.preserve(file, 1)


@pytest.mark.parametrize("target", NO_FILES, ids=repr)
def test_retrieve_names_what_is_no_target(target: Any) -> None:
    with IncomingSession(some_fd()) as session, pytest.raises(BadInput, match="a file is"):
        session.retrieve(1, into=target, check_memory=False, check_driver=False)


def test_a_closed_file_is_no_target() -> None:
    target = some_fd()
    target.close()
    with IncomingSession(some_fd()) as session, pytest.raises(BadInput):
        session.retrieve(1, into=target, check_memory=False, check_driver=False)
