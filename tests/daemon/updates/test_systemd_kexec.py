"""The request to systemd for the kexec: which answers mean that this kernel goes on."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from luod.daemon.updates import systemd_kexec


def requested(
    monkeypatch: pytest.MonkeyPatch, answer: Any, *, loaded: bool = True, ending: bool = True, loads: int | None = None
) -> str:
    """Requests the kexec of a systemctl that gives this answer, or raises it. `ending`: what PID 1 says when asked."""

    def run(words: Any, **_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("luod.kexec.loaded", lambda: loaded)
    monkeypatch.setattr("luod.kexec.loads_left", lambda: 7)
    monkeypatch.setattr("luod.daemon.systemd.units.may_end_kernel", lambda: ending)
    monkeypatch.setattr(subprocess, "run", run)
    return systemd_kexec._request(loads)


def answered(code: int, stderr: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, "", stderr)


def test_a_request_that_systemd_takes_has_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert requested(monkeypatch, answered(0)) == ""


@pytest.mark.parametrize(
    "answer",
    [subprocess.TimeoutExpired("systemctl", 30), answered(1, "Failed to start kexec.target: Connection timed out\n")],
)
def test_a_request_without_an_answer_may_still_be_taken(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    assert requested(monkeypatch, answer) == ""


_UNCLEAR = [
    (answered(1, "Failed to start kexec.target: Connection reset by peer"), "Connection reset by peer"),
    (answered(1, "Failed to start kexec.target: Remote peer disconnected"), "peer disconnected"),
    (answered(-9), "it ended with status -9"),
    (answered(3), "it ended with status 3"),
    (OSError(12, "Cannot allocate memory"), "systemctl cannot be waited for: Cannot allocate memory"),
]


@pytest.mark.parametrize("answer", [answer for answer, _failure in _UNCLEAR])
def test_an_unclear_end_is_taken_if_systemd_may_end_this_kernel(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """The request may have been made before systemctl was killed, or lost its connection."""
    assert requested(monkeypatch, answer, ending=True) == ""


@pytest.mark.parametrize(("answer", "failure"), _UNCLEAR)
def test_an_unclear_end_is_a_refusal_if_systemd_does_not_end_this_kernel(
    monkeypatch: pytest.MonkeyPatch, answer: Any, failure: str
) -> None:
    assert failure in requested(monkeypatch, answer, ending=False)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (answered(1, "Operation inhibited by a backup\nmore"), "Operation inhibited by a backup"),
        (answered(1, "Failed to start kexec.target: Unit kexec.target is masked."), "masked"),
        (FileNotFoundError(2, "No such file or directory"), "systemctl cannot be run: No such file or directory"),
    ],
)
def test_a_request_that_is_refused_says_why(monkeypatch: pytest.MonkeyPatch, answer: Any, failure: str) -> None:
    assert failure in requested(monkeypatch, answer)


def test_systemctl_speaks_the_language_in_which_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def run(_words: Any, **options: Any) -> Any:
        given.append(options["env"]["LC_ALL"])
        return answered(0)

    monkeypatch.setattr("luod.kexec.loaded", lambda: True)
    monkeypatch.setattr(subprocess, "run", run)
    assert systemd_kexec._request(None) == ""
    assert given == ["C"]


def test_an_image_that_another_process_has_loaded_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "another process" in requested(monkeypatch, AssertionError("it is asked"), loads=8)
    assert requested(monkeypatch, answered(0), loads=7) == ""


def test_without_an_image_systemd_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no image is loaded" in requested(monkeypatch, AssertionError("it is asked"), loaded=False)
