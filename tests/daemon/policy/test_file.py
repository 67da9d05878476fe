"""A policy file that is wrong is refused, with the file, the member or position, and a hint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from luod.daemon.main import main
from luod.daemon.policy.file import parse, read
from luod.daemon.policy.rules import HookCommands, Rule, Settings
from luod.errors import PolicyError

PATH = "/etc/luod/luod.toml"


def wrong(text: str | bytes) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), PATH)
    assert str(caught.value).startswith(f"{PATH}: ")
    return caught.value


def test_a_file_may_have_every_member() -> None:
    settings = parse(
        b"""
        restore-deadline = 600
        reaper = ["/usr/libexec/reap", "--fast"]
        reaper-timeout = 5.5
        all-connections = 100
        [hooks]
        before-update = ["/usr/bin/lock", "take"]
        after-update = ["/usr/bin/lock", "give"]
        timeout = 9
        [default]
        names = []
        [[rules]]
        uid = 1000
        gid = 36
        unit = "qemu@*.service"
        cgroup = "/machine.slice"
        names = ["{user}/*", "{unit}"]
        sessions = 4
        connections = 8
        may-update = true
        on-owner-death = "discard"
        """,
        PATH,
    )
    assert (settings.restore_deadline, settings.reaper, settings.reaper_timeout) == (
        600.0,
        ("/usr/libexec/reap", "--fast"),
        5.5,
    )
    assert settings.all_connections == 100
    assert settings.hooks == HookCommands(
        before_update=("/usr/bin/lock", "take"), after_update=("/usr/bin/lock", "give"), timeout=9.0
    )
    assert settings.default.names == ()
    (rule,) = settings.rules
    assert rule == Rule(
        uid=1000,
        gid=36,
        unit="qemu@*.service",
        cgroup="/machine.slice",
        names=("{user}/*", "{unit}"),
        sessions=4,
        connections=8,
        may_update=True,
        on_owner_death="discard",
    )


def test_an_empty_file_is_the_defaults() -> None:
    assert parse(b"", PATH) == Settings()


@pytest.mark.parametrize(
    ("text", "member", "says", "hint"),
    [
        ("[[rules]]\nuid = 1\n[[rules]]\nuid = 'x'\n", "rules[1].uid", "is text, not a number", "id NAME"),
        ("[[rules]]\nuid = 1\nsesions = 4\n", "rules[0].sesions", "is unknown", "did you mean 'sessions'?"),
        ("[default]\nmay_update = true\n", "default.may_update", "is unknown", "did you mean 'may-update'?"),
        ("restore-dedline = 4\n", "restore-dedline", "is unknown", "did you mean 'restore-deadline'?"),
        ("[rules]\nuid = 1\n", "rules", "is a table, not a list", "[[rules]]"),
        ("[[rules]]\nuid = 1\nnames = 'a'\n", "rules[0].names", "is text, not a list", '["a", "b"]'),
        ("[[rules]]\nuid = 1\nnames = ['a', 'b c']\n", "rules[0].names[1]", "is not a valid pattern", "{user}"),
        ("[[rules]]\nuid = 1\nnames = ['{usr}']\n", "rules[0].names[0]", "is not a valid pattern", "{user}"),
        ("[default]\non-owner-death = 'drop'\n", "default.on-owner-death", "cannot be 'drop'", "hold, discard"),
        ("[default]\non-owner-death = 'Hold'\n", "default.on-owner-death", "cannot be 'Hold'", "did you mean 'hold'?"),
        ("[[rules]]\nsessions = 3\n", "rules[0]", "has no condition", "[default]"),
        ("[[rules]]\nuid = -1\n", "rules[0].uid", "is not a valid uid", ""),
        ("[[rules]]\nunit = 'vm'\n", "rules[0].unit", "is not a unit", "did you mean 'vm.service'?"),
        ("[[rules]]\ncgroup = 'a'\n", "rules[0].cgroup", "root", "/machine.slice"),
        ("[default]\nsessions = 5000\n", "default.sessions", "is not a valid number of sessions", "1024"),
        ("all-connections = 0\n", "all-connections", "is not a valid number of connections", "65536"),
        ("[default]\nconnections = 0\n", "default.connections", "is not a valid number of connections", "65536"),
        ("restore-deadline = '10m'\n", "restore-deadline", "is text, not a number of seconds", ""),
        ("restore-deadline = 0\n", "restore-deadline", "is not a valid time", "forever"),
        ("restore-deadline = nan\n", "restore-deadline", "is not a valid time", "forever"),
        ("reaper = ['reap']\n", "reaper[0]", "is not an absolute path", "$PATH"),
        ("reaper = ['/a', \"\\u0000\"]\n", "reaper", "has a NUL", ""),
        ("[hooks]\nbefore = ['/a']\n", "hooks.before", "is unknown", "did you mean 'before-update'?"),
        ("[hooks]\nafter_update = ['/a']\n", "hooks.after_update", "is unknown", "did you mean 'after-update'?"),
        ("[hooks]\nbefore-update = 'a'\n", "hooks.before-update", "is text, not a list", '["a", "b"]'),
        ("[hooks]\nbefore-update = ['a']\n", "hooks.before-update[0]", "is not an absolute path", "$PATH"),
        ("[hooks]\nafter-update = ['/a', \"\\u0000\"]\n", "hooks.after-update", "has a NUL", ""),
        ("[hooks]\ntimeout = 0\n", "hooks.timeout", "is not a valid time", "a positive number"),
        ("a = 1\nb == 2\n", "", "Invalid value (at line 2, column 4)", "TOML"),
        ("a = [1,\n", "", "Invalid value (at end of document)", "TOML"),
        (f"restore-deadline = 1{'0' * 400}\n", "restore-deadline", "is too large", ""),
        ("restore-deadline = 2026-11-27\n", "restore-deadline", "is a time, not a number of seconds", ""),
        ("default = 1\n", "default", "is a number, not a table", ""),
        ("rules = [1]\n", "rules[0]", "is a number, not a table", ""),
        ("all-connections = true\n", "all-connections", "is true or false, not a number", ""),
        (b"a = 1\nb = '\xff'\n", "line 2, column 6", "is not UTF-8", "UTF-8"),
    ],
)
def test_what_is_wrong_is_named(text: str | bytes, member: str, says: str, hint: str) -> None:
    error = wrong(text)
    assert error.member == member
    assert str(error).startswith(f"{PATH}: {member}: " if member else f"{PATH}: ")
    assert says in error.message
    assert hint in error.hint


def test_check_config_says_good_or_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "luod.toml"
    file.write_text("[[rules]]\nuid = 3\n")
    assert main(["check-config", str(file)]) == 0
    assert "valid, 1 rule\n" in capsys.readouterr().out
    file.write_text("[[rules]]\nuid = true\n")
    assert main(["check-config", str(file)]) == 1
    assert f"{file}: line 2: rules[0].uid: is true or false, not a number" in capsys.readouterr().err
    assert main(["check-config", str(tmp_path / "none")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_policy_that_others_can_write_is_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "luod.toml"
    path.write_text("")
    path.chmod(0o666)
    assert main(["check-config", str(path)]) == 1
    said = capsys.readouterr().err
    assert f"{path}: is not accepted: it can be written by every user" in said
    assert f"chmod go-w {path}" in said
    path.chmod(0o644)
    tmp_path.chmod(0o777)
    with pytest.raises(PolicyError, match=f"is not accepted: {tmp_path} can be written"):
        read(str(path))


@pytest.mark.parametrize("member", ["reaper", "hooks.before-update", "hooks.after-update"])
def test_check_config_looks_at_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], member: str) -> None:
    path, command = tmp_path / "luod.toml", tmp_path / "command"
    table, _, name = member.rpartition(".")
    path.write_text((f"[{table}]\n" if table else "") + f'{name} = ["{command}", "--now"]\n')

    def said() -> str:
        assert main(["check-config", str(path)]) == 1
        return capsys.readouterr().err

    assert f": {member}[0]: {command}: No such file or directory" in said()
    command.mkdir()
    assert f": {member}[0]: {command} is not a regular file" in said()
    command.rmdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o644)
    assert f": {member}[0]: {command} cannot be executed" in said()
    command.chmod(0o777)
    found = said()
    assert f": {member}[0]: {command} can be written by every user" in found
    assert f"chmod go-w {command}" in found
    command.chmod(0o755)
    assert main(["check-config", str(path)]) == 0


def test_the_policy_of_the_manual_is_good() -> None:
    page = (Path(__file__).parents[3] / "docs/policy.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(parse(text.encode(), PATH).rules) == 2
