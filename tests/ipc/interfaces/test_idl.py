"""The committed `.varlink` files say what the types say."""

from __future__ import annotations

from pathlib import Path

import pytest

import luod.ipc.interfaces
from luod.ipc.interfaces import idl

DIRECTORY = Path(luod.ipc.interfaces.__file__).parent


@pytest.mark.parametrize("name", idl.files())
def test_the_file_is_what_the_types_give(name: str) -> None:
    assert (DIRECTORY / name).read_text(encoding="utf-8") == idl.files()[name], "run python3 -m luod.ipc.interfaces.idl"


def test_there_is_no_file_without_a_type() -> None:
    assert {path.name for path in DIRECTORY.glob("*.varlink")} == set(idl.files())


@pytest.mark.parametrize("name", idl.files())
def test_every_error_says_what_was_wrong_and_what_to_do(name: str) -> None:
    errors = [line for line in idl.files()[name].splitlines() if line.startswith("error ")]
    assert errors
    for line in errors:
        assert "message: string" in line
        assert "hint: string" in line
