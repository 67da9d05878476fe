"""The file of faults: what it may say, and what is said about mistakes in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.errors import BadInput
from luod.fleet import faults
from luod.fleet.faults import KINDS, Fault


def test_a_host_has_a_fault_and_a_veto_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[hosts.h7]\nfault = "veto"\nreason = "a backup is running"\n[hosts.h9]\nfault = "panic"\n')
    found = faults.read(str(file), ["h7", "h8", "h9"])
    assert found == {"h7": Fault("veto", "a backup is running"), "h9": Fault("panic")}


def test_an_empty_file_has_no_faults() -> None:
    assert faults.parse({}, ["h7"]) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[hosts.h7]\nfault = "explodes"\n', f"faults: hosts.h7.fault is 'explodes', not one of {', '.join(KINDS)} "),
        ('[hosts.h7]\nfault = "veto"\nwhen = 3\n', "hosts.h7.when is no known member; known: fault, reason "),
        ("[hosts.h7]\n", "hosts.h7.fault is missing; known: veto, "),
        ("[hosts]\nh7 = 3\n", "hosts.h7 is int, not dict"),
        ('[hosts.other]\nfault = "veto"\n', "no host 'other' is in the inventory"),
        ("[hosts.h7\n", "faults.toml: "),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "faults.toml"
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        faults.read(str(file), ["h7"])
    assert said in f"{caught.value.message} {caught.value.hint}"
