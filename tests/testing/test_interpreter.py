"""The Python of a uid, and the reasons why there is no such Python."""

from __future__ import annotations

import os

import pytest

from luod.errors import MachineUnavailable
from luod.testing import EmulatedMachine, interpreter
from luod.testing.interpreter import needed_interpreter


@pytest.fixture
def _no_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has each Python fail to import luod."""
    monkeypatch.setattr(interpreter, "_ATTEMPT", "raise ImportError('luod is not for this one')")
    monkeypatch.setattr(interpreter, "_found", interpreter._found.__wrapped__)  # without its cache


def test_only_root_may_choose_the_uid_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    for user in (1000, 1001):
        with pytest.raises(MachineUnavailable, match=rf"only root .* a given uid \({user}\), and this is uid 1000"):
            EmulatedMachine(user=user)


@pytest.mark.usefixtures("_no_python")
def test_the_reason_is_what_python_said_last() -> None:
    uid = os.geteuid()
    with pytest.raises(
        MachineUnavailable, match=rf"uid {uid} has .* can import luod: ImportError: luod is not for this"
    ):
        needed_interpreter()


@pytest.mark.usefixtures("_no_python")
def test_the_reason_is_that_python_cannot_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/python")
    monkeypatch.setattr(interpreter, "_SYSTEMS", "/none/either")

    with pytest.raises(MachineUnavailable, match=r"can import luod: /none/either: .*No such file"):
        needed_interpreter()
