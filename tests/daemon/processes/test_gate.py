"""The gate says why a command of the operator does not start."""

from __future__ import annotations

import subprocess
import sys

import pytest


def complaint(program: str, **environment: str) -> tuple[int, str]:
    """Returns the exit status of a gate that is lifted for `program`, and what it printed."""
    command = [sys.executable, "-m", "luod.daemon.processes.gate", program]
    done = subprocess.run(command, input="g", env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


def test_a_command_that_is_missing_is_named() -> None:
    assert complaint("/nowhere/hook", SYSTEMD_EXEC_PID="7") == (127, "/nowhere/hook: No such file or directory")


@pytest.mark.parametrize(
    "place", ["/home/hook", "/root/no/hook", "/run/user/0/hook", "/tmp/no/hook", "/var/tmp/no/hook"]
)
def test_a_command_in_a_place_that_the_unit_hides_is_told_to_move(place: str) -> None:
    status, said = complaint(place, SYSTEMD_EXEC_PID="7")

    assert status == 127
    assert said.startswith(f"{place}: No such file or directory; luod.service has /home, /root,")
    assert said.endswith("put it elsewhere")
    assert complaint(place) == (127, f"{place}: No such file or directory"), "without systemd nothing is hidden"


@pytest.mark.parametrize(("given", "order"), [("g", "''"), ("g2147483640", "'2147483640'"), ("", "None")])
def test_an_order_passes_the_gate_and_a_serve_that_is_gone_gives_none(given: str, order: str) -> None:
    source = "from luod.daemon.processes import gate; print(repr(gate.wait_for_order()))"
    done = subprocess.run([sys.executable, "-c", source], input=given, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == order
