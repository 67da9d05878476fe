"""luod.arguments: the start of a program, of which reading its command line is a part."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NoReturn

import pytest

from luod.ctl.parser import parser as luoctl
from luod.daemon.command_line import parser as luod


def test_no_translation_is_looked_for_in_the_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(*_arguments: object, **_options: object) -> NoReturn:
        raise AssertionError("a translation is looked for")

    monkeypatch.setattr("gettext.find", find)

    luod()
    luoctl()


def test_an_error_that_cannot_be_written_changes_no_exit_status() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as broken:
        command = [sys.executable, "-m", "luod.emulator.machine", "run", "--no-such-option"]
        assert subprocess.run(command, stderr=broken, check=False).returncode == 2
