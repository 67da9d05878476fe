"""The command line of luod-fleet, without hosts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luod.fleet import main, stored
from tests.fleet.test_page import report


def test_a_stored_report_is_shown_as_text_and_as_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, written = tmp_path / "report.json", tmp_path / "page.html"
    stored.write(str(file), report())

    assert main.main(["report", str(file)]) == 0
    assert main.main(["report", str(file), "--html", str(written)]) == 0

    assert stored.read(str(file)) == report()
    assert "the roll-out stopped at b" in capsys.readouterr().out
    assert written.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("content", "said"), [("{", "has no report"), ("{}", "has no report"), (None, "has format 2, not 1")]
)
def test_what_is_no_report_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    file = tmp_path / "report.json"
    newer = json.loads(stored.encoded(report())) | {"format": 2}
    file.write_text(json.dumps(newer) if content is None else content)
    assert main.main(["report", str(file)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--guests", "-1"], "a number is too small"),
        (["--kernel", "/vmlinuz"], "/vmlinuz: hosts cannot show a kernel there"),
        (["--initrd", "/tmp/initrd"], "/tmp/initrd: hosts cannot show a kernel there"),
        (["--kernel", "/no such directory/vmlinuz"], "hosts cannot show a kernel there"),
        (["--ansible", "/nowhere"], "there is no ansible-playbook"),
    ],
)
def test_what_cannot_be_rehearsed_is_said_before_a_host_is_started(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main.main(["rehearse", "-i", "hosts.yml", *words, "update.yml"]) == 2
    assert said in capsys.readouterr().err
