"""`luoctl completion`: the scripts, and that of bash in a real bash."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from luod.ctl.completion import SCRIPTS
from luod.ctl.parser import parser


def completed(tmp_path: Path, *words: str) -> list[str]:
    """Returns what bash offers for the last of the words; luoctl is a program that names two sessions."""
    (tmp_path / "luoctl").write_text("#!/bin/sh\n[ \"$*\" = 'list --names' ] && printf 'vm-1\\nvm-2#7\\n'\n")
    (tmp_path / "luoctl").chmod(0o755)
    (tmp_path / "completion").write_text(SCRIPTS["bash"](parser()))
    script = (
        f'PATH={tmp_path}:$PATH; source {tmp_path}/completion; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        "compopt() { :; }; _luoctl; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    command = ["bash", "--norc", "-euc", script, "bash", "luoctl", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["up"], ["update"]),
        (["--json", "st"], ["status", "stop"]),
        (["--socket", "status", "st"], ["status", "stop"]),
        (["--so"], ["--socket"]),
        (["update", "--d"], ["--deadline", "--dry-run", "--detach", "--direct"]),
        (["load", "--ignore-finding", ""], []),
        (["wait", "--for", "re"], ["ready", "restored"]),
        (["help", "ca"], ["carry-over"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["show", ""], ["vm-1", "vm-2#7"]),
        (["discard", "vm-1", "vm-2"], ["vm-2#7"]),
        (["status", ""], []),
    ],
)
def test_bash_completes_verbs_options_and_sessions(tmp_path: Path, words: list[str], offered: list[str]) -> None:
    assert completed(tmp_path, *words) == offered


@pytest.mark.parametrize("shell", SCRIPTS)
def test_every_verb_and_option_is_in_the_script(shell: str) -> None:
    program = parser()
    script = SCRIPTS[shell](program)
    for verb, command in program.verbs.items():
        assert verb in script
        for option in command._option_string_actions:
            assert option.lstrip("-") in script
