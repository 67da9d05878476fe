"""`luod check-config` names every mistake of a policy file, each with its line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from luod.daemon.main import main
from luod.daemon.policy.check import Lines, mistakes
from luod.daemon.policy.file import judged
from luod.daemon.policy.rules import Settings
from luod.decode import encode

FILE = """\
# The policy of this rack.
reaper = ["reap"]
restore-deadline = "10m"
"a.b" = 1

[default]
names = [
    "vm-*",   # fine
    7,
    "b c",
]
on-owner-death = "drop"

[[rules]]
uid = true

[[rules]]
uid = 3
sesions = 4
default.x = 1

[[rules]]
sessions = -1

[hooks]
before-update = '''
text'''
"""


def test_every_mistake_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "luod.toml"
    path.write_text(FILE)

    rules, found = mistakes(str(path))

    assert rules == 3
    assert [str(each).removeprefix(f"{path}: ") for each in found] == [
        "a.b: is unknown",  # its name is in quotes, and luod does not look for such
        "line 2: reaper[0]: is not an absolute path",
        "line 3: restore-deadline: is text, not a number of seconds",
        "line 7: default.names[1]: is a number, not text",
        "line 7: default.names[2]: 'b c' is not a valid pattern",
        "line 12: default.on-owner-death: cannot be 'drop'",
        "line 15: rules[0].uid: is true or false, not a number",
        "line 19: rules[1].sesions: is unknown",
        "line 20: rules[1].default: is unknown",
        "line 22: rules[2]: has no condition",
        "line 23: rules[2].sessions: is not a valid number of sessions",
        "line 26: hooks.before-update: is text, not a list",
    ]


def test_check_config_prints_them_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "luod.toml"
    path.write_text("reaper = 1\nreaper-timeout = 'x'\n")

    assert main(["check-config", str(path)]) == 1

    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith("hint: ")] == [
        f"luod: {path}: line 1: reaper: is a number, not a list",
        f"luod: {path}: line 2: reaper-timeout: is text, not a number of seconds",
    ]


def test_a_mistake_makes_no_other_one(tmp_path: Path) -> None:
    """A value of a wrong type is one mistake, whatever is required of a value of the right type."""
    path = tmp_path / "luod.toml"
    for text in (
        "rules = [1]",
        "reaper = [1]",
        "reaper-timeout = true",
        "all-connections = 'x'",
        "[[rules]]\nunit = 1",
        "[[rules]]\ncgroup = 1",
        "[[rules]]\nuid = 'x'",
        "[default]\nnames = [1]",
        "[default]\nconnections = 'x'",
        "[hooks]\ntimeout = []",
        "reaper = ['true']",
    ):
        path.write_text(text + "\n")
        assert len(mistakes(str(path))[1]) == 1, text


some_values: Any = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=3),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
some_names = some.sampled_from([*encode(Settings()), "uid", "names", "before-update", "on-owner-death", "[0]", "a.b"])


@given(some_values | some.dictionaries(some_names.map(lambda name: name.replace("_", "-")), some_values, max_size=4))
def test_any_table_is_judged(table: object) -> None:
    settings, _ = judged(table)
    assert isinstance(settings, Settings)


@pytest.mark.parametrize(
    ("text", "member", "line"),
    [
        ("a = 1", "a", 1),
        ("a = 1\r\n\r\nb = 2\r\n", "b", 3),
        ("\n# b = 1\n[t]\n\nb = [\n1,\n2]\n", "t.b", 5),
        ("\n# b = 1\n[t]\n\nb = [\n1,\n2]\n", "t.b[1]", 5),
        ("[[r]]\nb = 1\n[[r]]\nb = 2\n", "r[1]", 3),
        ("[[r]]\nb = 1\n[[r]]\nb = 2\n", "r[1].b", 4),
        ("a = 1", "b", None),
        ("a = 1", "a[0]", None),
        ("a = 1", "", None),
    ],
)
def test_the_line_of_a_member_is_that_on_which_it_begins(text: str, member: str, line: int | None) -> None:
    tomllib.loads(text)
    assert Lines(text).of(member) == line
