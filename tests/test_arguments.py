"""luod.arguments: the start of a program, of which reading its command line is a part."""

from __future__ import annotations

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
