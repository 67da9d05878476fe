"""luod.kexec: what is refused before a call here; the calls themselves only ever inside a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod import kexec
from luod.errors import BadInput
from luod.uapi.kexec import COMMAND_LINE_SIZE


class NoFile:
    """A file whose fd must not be asked for, so that no call can follow."""

    def fileno(self) -> int:
        raise AssertionError("the input should have been refused first")


@pytest.mark.parametrize(
    ("command_line", "reason"),
    [("quiet\0liveupdate=on", "NUL"), ("x" * COMMAND_LINE_SIZE, "2047"), ("ü" * (COMMAND_LINE_SIZE // 2), "2048$")],
)
def test_a_command_line_no_kernel_takes_is_refused_before_any_call(command_line: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        kexec.load(NoFile(), None, command_line)


@pytest.mark.parametrize(("text", "loaded"), [("1\n", True), ("0\n", False)])
def test_loaded_reads_what_sys_says(tmp_path: Path, text: str, loaded: bool) -> None:
    file = tmp_path / "kexec_loaded"
    file.write_text(text, encoding="ascii")
    assert kexec.loaded(file) is loaded


def test_a_kernel_without_kexec_has_none_loaded(tmp_path: Path) -> None:
    assert kexec.loaded(tmp_path / "kexec_loaded") is False
