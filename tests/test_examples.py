"""The programs in examples/ do what they say: a guest that counts on over kernel updates, and over one that is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from luod.testing import eventually
from luod.testing.host import SOCKET
from luod.testing.tools import require_tool
from tests.daemon.host import Luod, until_followed
from tests.daemon.participant import Participant, begin, prepare

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(params=["Python", "C"])
def vmm(request: pytest.FixtureRequest, luod: Luod, tmp_path: Path) -> list[str]:
    """Returns the command of an example, without the guest's name."""
    if request.param == "Python":
        return luod.python().script(EXAMPLES / "vmm.py")
    return [c_program(tmp_path)]


def c_program(folder: Path) -> str:
    """Builds vmm.c, and returns its path."""
    compiler = require_tool("gcc", package="gcc")
    program = folder / "vmm"
    options = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1"]
    subprocess.run([compiler, *options, "-o", program, EXAMPLES / "vmm.c"], check=True)
    return str(program)


class Log:
    """What the example says, in a file that outlives the machine's boots."""

    def __init__(self, luod: Luod, vmm: list[str], path: Path) -> None:
        self._luod = luod
        self._command = ["sh", "-c", 'log=$1; shift; exec "$@" >>"$log" 2>&1', "sh", str(path), *vmm, "vm"]
        self._path = path

    def start(self) -> None:
        self._luod.machine.spawn(self._command, env=self._luod.python().environment)

    def expect(self, line: str) -> str:
        """Waits until the last line is like this; the number in it, if there is one."""

        def last() -> re.Match[str] | None:
            lines = self._path.read_text().splitlines() if self._path.exists() else []
            return re.fullmatch(line, lines[-1]) if lines else None

        match = eventually(last, describe=f"the log ends with {line!r}")
        return match[1] if match.groups() else ""


def test_a_guest_counts_on(luod: Luod, vmm: list[str], tmp_path: Path) -> None:
    log = Log(luod, vmm, tmp_path / "log")
    log.start()
    log.expect("vm: takes part")
    for boot in (2, 3):
        luod.jump()
        assert luod.machine.boot == boot
        frozen = log.expect(r"vm: frozen at (\d+)")
        log.start()
        log.expect("vm: takes part")
        assert f"vm: resumes at {frozen}\n" in (tmp_path / "log").read_text()
    assert "not of the same moment" not in (tmp_path / "log").read_text()


@dataclass(frozen=True)
class Relay:
    """A relay in the place of luod's socket, until the next kexec."""

    log: Path

    def calls(self, method: str) -> list[dict[str, Any]]:
        """Returns the parameters of each call of `method` so far."""
        messages = [json.loads(message) for message in self.log.read_bytes().split(b"\0")[:-1]]
        return [message["parameters"] for message in messages if message["method"] == method]


def relay(luod: Luod, folder: Path, lost: str) -> Relay:
    """Starts a relay, which loses luod's first answer to the method `lost`."""
    found = Relay(folder / f"calls-{luod.machine.boot}")
    python = luod.python()
    env = {"PYTHONPATH": os.pathsep.join([python.environment["PYTHONPATH"], str(ROOT)])}
    words = python.module("tests.programs.relay", SOCKET, str(found.log), lost)
    luod.machine.spawn(words, env=env)
    eventually(
        lambda: "luod.sock.behind" in luod.machine.run(["ls", os.path.dirname(SOCKET)]).text, describe="it relays"
    )
    return found


def test_a_vote_names_its_update(luod: Luod, vmm: list[str], tmp_path: Path) -> None:
    calls = relay(luod, tmp_path, "nothing")
    log = Log(luod, vmm, tmp_path / "log")
    log.start()
    log.expect("vm: takes part")
    luod.jump()
    votes = calls.calls("io.luod.Updates.Vote")
    assert [vote["phase"] for vote in votes] == ["preparing", "freezing"]
    assert {vote["vote"] for vote in votes} == {"ready"}
    (generation,) = {vote["generation"] for vote in votes}
    assert generation > 0


def test_a_guest_resumes_once_when_the_answer_to_resuming_is_lost(luod: Luod, vmm: list[str], tmp_path: Path) -> None:
    log = Log(luod, vmm, tmp_path / "log")
    log.start()
    log.expect("vm: takes part")
    luod.jump()
    calls = relay(luod, tmp_path, "io.luod.Updates.Resuming")
    log.start()
    log.expect("vm: takes part")
    assert calls.calls("io.luod.Updates.Resuming") == [{"names": ["vm"]}] * 2
    assert len(re.findall(r"resumes at", (tmp_path / "log").read_text())) == 1


def test_a_guest_goes_on_when_luod_is_killed_while_it_is_frozen(luod: Luod, vmm: list[str], tmp_path: Path) -> None:
    log = Log(luod, vmm, tmp_path / "log")
    log.start()
    log.expect("vm: takes part")
    # One that never votes in freezing keeps the update there.
    other = Participant(luod, "other")
    begin(luod)
    prepare(other)
    frozen = log.expect(r"vm: frozen at (\d+)")
    luod.kill_serve()
    assert log.expect(r"vm: goes on at (\d+): .*") == frozen
    other.vmm.call("hang_up", slot="follow")
    other.vmm.call("release", session="other")
    until_followed(luod, 1)
    luod.jump()
    log.start()
    log.expect("vm: takes part")
    assert len(re.findall(r"frozen at", (tmp_path / "log").read_text())) == 2
    assert len(re.findall(r"resumes at", (tmp_path / "log").read_text())) == 1


def test_a_guest_that_was_carried_over_is_left_for_the_next_kernel(luod: Luod, tmp_path: Path) -> None:
    """A host's init starts the VMM again, whatever the operator has done with its sessions."""
    vmm = luod.python().script(EXAMPLES / "vmm.py")  # that in C has no manifest, so it cannot be carried over
    log = Log(luod, vmm, tmp_path / "log")
    log.start()
    log.expect("vm: takes part")
    luod.jump()
    frozen = log.expect(r"vm: frozen at (\d+)")
    luod.luoctl("carry-over", "vm")

    refused = luod.machine.run([*vmm, "vm"], env=luod.python().environment, check=False)

    assert refused.returncode != 0
    assert b"Busy" in refused.stderr
    luod.jump()
    log.start()
    log.expect("vm: takes part")
    assert f"vm: resumes at {frozen}\n" in (tmp_path / "log").read_text()


def test_a_guest_whose_session_luod_has_lost_is_carried_by_another_one(
    luod: Luod, vmm: list[str], tmp_path: Path
) -> None:
    log = Log(luod, vmm, tmp_path / "log")
    log.start()
    log.expect("vm: takes part")
    luod.kill_both()
    luod.machine.run(["rm", "-r", luod.state_directory])
    luod.start()
    eventually(
        lambda: any(each.get("participant") for each in luod.answers("show", "vm")),
        describe="the guest takes part with another session",
    )
    luod.jump()
    frozen = log.expect(r"vm: frozen at (\d+)")
    log.start()
    log.expect("vm: takes part")
    assert f"vm: resumes at {frozen}\n" in (tmp_path / "log").read_text()


def test_a_guest_whose_state_cannot_be_preserved_goes_on(luod: Luod, tmp_path: Path) -> None:
    """vmm.c has the fds that it needs until then, and not the one for its state."""
    program = c_program(tmp_path)
    log = Log(luod, ["sh", "-c", 'ulimit -n 8; exec "$@"', "sh", program], tmp_path / "log")
    log.start()
    log.expect("vm: takes part")
    assert "its state cannot be preserved" in begin(luod).until("cancelled")["reason"]
    log.expect(r"vm: goes on at \d+: .*its state cannot be preserved")
