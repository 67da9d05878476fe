"""Refusals of operators and users are in the log, with their uid and the reason."""

from __future__ import annotations

from pathlib import Path

from luod.testing import Machine, eventually
from luod.testing.tools import for_root
from tests.daemon.host import Luod

ALICE = 1000
BOB = 1001
POLICY = f"""
[default]
names = ["allowed"]

[[rules]]
uid = {ALICE}
may-update = true
"""


def as_user(luod: Luod, user: int, *arguments: str) -> None:
    python = luod.python(user)
    command = python.module("luod.ctl.main", *arguments)
    assert luod.machine.run(command, env=python.environment, user=user, check=False).returncode != 0


def test_denied_and_failed_commands_are_in_the_log_with_uid_and_reason(machine: Machine, tmp_path: Path) -> None:
    for_root("for several users in one machine")
    policy = tmp_path / "luod.toml"
    policy.write_text(POLICY)
    luod = Luod(machine, state_directory=tmp_path / "state")
    luod.start("--config", str(policy))
    image = tmp_path / "no-kernel"
    image.write_text("this is no kernel\n" * 1000)
    for command in (
        ("load", "--kernel", str(image), "--reuse-cmdline"),
        ("update",),
        ("abort",),
        ("discard", "nobodys"),
        ("carry-over", "nobodys"),
    ):
        assert luod.luoctl(*command, check=False).returncode != 0
    as_user(luod, ALICE, "stop")
    as_user(luod, BOB, "abort")
    vmm = luod.vmm(BOB)
    assert vmm.refused("create", name="other", slot="s").kind == "Refused"
    vmm.call("create", name="allowed", slot="s")
    vmm.program.kill()
    eventually(
        lambda: "only luod" in luod.luoctl("stop", check=False).stderr.decode(),
        describe="the last fd of the dead VMM is closed",
    )
    lines = [line for line in luod.terminate().splitlines() if " refused " in line]
    assert all(" warning serve " in line and " reason=" in line for line in lines)
    seen = {(word(line, "method"), word(line, "uid"), word(line, "error")) for line in lines}
    assert seen >= {
        ("Admin.LoadKernel", "0", "NotAKernelImage"),
        ("Admin.Update", "0", "NotLoaded"),
        ("Admin.Abort", "0", "NoUpdate"),
        ("Admin.Discard", "0", "NoSuchSession"),
        ("Admin.CarryOver", "0", "NoSuchSession"),
        ("Admin.Stop", str(ALICE), "PermissionDenied"),
        ("Admin.Abort", str(BOB), "InterfaceNotFound"),
        ("Sessions.Create", str(BOB), "Refused"),
        ("Admin.Stop", "0", "Refused"),
    }


def word(line: str, key: str) -> str:
    return line.partition(f" {key}=")[2].split()[0]
