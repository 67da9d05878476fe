"""The request to systemd for the kexec: which answers mean that this kernel goes on."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from luod.daemon.updates import systemd_kexec


def requested(monkeypatch: pytest.MonkeyPatch, answer: Any, *, loaded: bool = True) -> str:
    """Requests the kexec of a systemctl that gives this answer, or raises it."""

    def run(words: Any, **_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("luod.kexec.loaded", lambda: loaded)
    monkeypatch.setattr(subprocess, "run", run)
    return systemd_kexec._request(None)


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


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (answered(1, "Operation inhibited by a backup\nmore"), "Operation inhibited by a backup"),
        (answered(3), "it ended with status 3"),
        (FileNotFoundError(2, "No such file or directory"), "systemctl cannot be run: No such file or directory"),
    ],
)
def test_a_request_that_is_refused_says_why(monkeypatch: pytest.MonkeyPatch, answer: Any, failure: str) -> None:
    assert requested(monkeypatch, answer) == failure


def test_without_an_image_systemd_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no image is loaded" in requested(monkeypatch, AssertionError("it is asked"), loaded=False)
