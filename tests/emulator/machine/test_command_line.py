"""The command line of luoemu: COMMAND begins with the first word that is not an option, with or without `--`."""

from __future__ import annotations

import subprocess

import pytest

from tests.emulator.machine.conftest import environment, interpreter, without_notice

ECHO = ["sh", "-c", 'echo "$LUOEMU_PROFILE" "$@"', "sh", "--profile", "mine", "--", "last"]


def luoemu(*words: str) -> subprocess.CompletedProcess[str]:
    command = interpreter(None).module("luod.emulator.machine", *words)
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("separator", [[], ["--"]], ids=["without", "with"])
def test_options_behind_the_first_word_are_the_commands(separator: list[str]) -> None:
    done = luoemu("run", "--profile", "next", *separator, *ECHO)
    assert (done.stdout, without_notice(done.stderr)) == ("next --profile mine -- last\n", "")


def test_a_command_that_looks_like_an_option_needs_the_separator() -> None:
    done = luoemu("run", "--", "-x")
    assert (done.returncode, without_notice(done.stderr)) == (127, "luoemu: -x: No such file or directory\n")


@pytest.mark.parametrize("words", [["run"], ["run", "--"], ["run", "--profile", "next"]])
def test_a_missing_command_is_a_usage_error(words: list[str]) -> None:
    done = luoemu(*words)
    assert done.returncode == 2
    assert "required: COMMAND" in done.stderr


def test_an_unknown_option_before_the_command_is_a_usage_error() -> None:
    done = luoemu("run", "--profil", "next", "true")
    assert done.returncode == 2
    assert "did you mean --profile?" in done.stderr
