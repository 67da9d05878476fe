"""What the pages show works as it is written there: their code is cut out and run."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from luod.ctl.parser import parser as luoctl
from luod.testing import Host, Machine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import BootMachine
from luod.testing.waiting import eventually
from tests import devices
from tests.daemon.host import Luod
from tests.test_words import RIDDLES

ROOT = Path(__file__).parents[1]
PAGES = [
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "messages.md"),  # made from the code
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
]


def blocks(page: str) -> list[str]:
    """Returns the Python blocks of a page, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture
def emulated_machines_only(boot_machine: BootMachine) -> None:
    """Skips where no machine with devices can be."""
    devices.boot(boot_machine).close()


def run_pytest(folder: Path, *, passed: int = 1) -> None:
    """Runs pytest as a VMM's author would: with the installed package and nothing else of this checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", folder],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f" {passed} passed" in done.stdout


def test_the_test_of_a_vmm_author_passes(machine: Machine, tmp_path: Path) -> None:
    """`machine`: where there can be none, this is skipped."""
    test, vmm, *_ = blocks("docs/test-vmm.md")
    (tmp_path / "test_my_vmm.py").write_text(test)
    (tmp_path / "my_vmm.py").write_text(vmm)
    run_pytest(tmp_path)


def test_the_forked_vmm_of_an_author_has_been_imported_before(machine: Machine, tmp_path: Path) -> None:
    _, vmm, _, test = blocks("docs/test-vmm.md")
    shows = """

def test_it_has_been_imported(luod_machine, luod_python, vmm_environment):
    argv = [luod_python.executable, "-c", "import sys; print('my_vmm' in sys.modules)"]
    assert luod_machine.run(argv, env=vmm_environment, forked=True).text == "True"
"""
    (ini,) = re.findall(r"```ini\n(.*?)```", (ROOT / "docs/test-vmm.md").read_text(), re.DOTALL)
    (tmp_path / "pytest.ini").write_text(ini)
    (tmp_path / "test_forked.py").write_text(test + shows)
    (tmp_path / "my_vmm.py").write_text(vmm)
    run_pytest(tmp_path, passed=2)


def test_the_tests_of_updates_vetoes_and_refusals_pass(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "vmm.py").write_text(blocks("docs/vmm.md")[0])
    (tmp_path / "test_updates.py").write_text(blocks("docs/test-vmm.md")[2])
    run_pytest(tmp_path, passed=3)


def test_the_complete_vmm_lives_through_two_updates(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "vmm.py").write_text(blocks("docs/vmm.md")[0])
    log = tmp_path / "log"
    luod = Luod(machine, state_directory=tmp_path / "state")
    command = ["sh", "-c", 'exec "$@" >>"$0" 2>&1', str(log), *luod.python().script(tmp_path / "vmm.py"), "vm-1"]

    def start() -> list[int]:
        """Starts luod and the VMM; what the guest counted at each start, once this one takes part."""
        luod.start()
        machine.spawn(command, env=luod.python().environment)
        eventually(lambda: luod.status()["participants"] == 1, describe="the VMM takes part")
        return [int(line.removeprefix("vm-1 runs at ")) for line in log.read_text().splitlines()]

    counts = start()
    assert counts == [0]
    for _ in range(2):
        luod.load()
        luod.update()
        before, counts = counts, start()
        assert counts[:-1] == before
        assert counts[-1] > before[-1]


def test_the_test_of_a_vmm_with_a_device_passes(emulated_machines_only: None, tmp_path: Path) -> None:
    vmm, test, _ = blocks("docs/vfio.md")
    (tmp_path / "my_vmm.py").write_text(vmm)
    (tmp_path / "test_my_vmm.py").write_text(test)
    run_pytest(tmp_path)


def test_the_program_that_plays_all_parts_brings_its_device_back(
    emulated_machines_only: None, machine_python: Interpreter
) -> None:
    _, _, life = blocks("docs/vfio.md")
    luoemu = machine_python.module("luod.emulator.machine", "run", "--vfio", devices.FIRST, "--")
    done = subprocess.run(
        [*luoemu, machine_python.executable, "-c", life],
        env={**os.environ, **machine_python.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"back: {devices.FIRST} State.READY\n", done.stderr


def test_the_commands_of_the_tutorial_carry_a_guest_into_the_next_kernel(machine: Machine, tmp_path: Path) -> None:
    """Those that are typed in the machine, in their order; a command with "&" is a program that goes on."""
    python = Host(machine, state_directory=tmp_path).python()
    environment = {**python.environment, "LUOEMU_KERNEL": machine.kernel}
    log = tmp_path / "log"
    first, *commands, last = re.findall(r"(?m)^    # (.*)", (ROOT / "docs/tutorial.md").read_text())
    assert (first, last) == ("ls -l /dev/liveupdate", "exit")

    def shell(command: str) -> list[str]:
        command = command.replace(".venv/bin/python", python.executable).replace("build/", f"{tmp_path}/")
        for program, module in (("luod", "luod.daemon.main"), ("luoctl", "luod.ctl.main")):
            command = re.sub(rf"^{program}\b", shlex.join(python.module(module)), command)
        return ["sh", "-c", f"cd {ROOT}; {command}"]

    def succeeds(command: str) -> bool:
        return machine.run(shell(command), env=environment, check=False).returncode == 0

    def taking_part() -> int:
        return log.read_text().count("takes part") if log.exists() else 0

    def takes_part_again(before: int) -> bool:
        return taking_part() > before

    for command in commands:
        if command == "luoctl update":
            with machine.expect_jump():
                machine.run(shell(command), env=environment)
        elif not command.endswith("&"):
            eventually(partial(succeeds, command), describe=command)
        elif "vmm.py" not in command:
            machine.spawn(shell(command.removesuffix("&")), env=environment)
        else:
            before = taking_part()
            machine.spawn(shell(f"exec {command.removesuffix('&')} >>{log} 2>&1"), env=environment)
            eventually(partial(takes_part_again, before), describe=command)
    assert re.search(r"vm-1: frozen at (\d+)\nvm-1: resumes at \1\n", log.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_no_riddles(page: Path) -> None:
    """Outside of code; "kexec" is the word for what some names in code call a jump."""
    text = re.sub(r"(?ms)^```.*?^```|^    .*?$|`[^`\n]*`", "", page.read_text())
    assert [found[0] for found in RIDDLES.finditer(text)] == []
    assert re.findall(r"(?i)\bjump(?:s|ed)?\b", text) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_verbs_and_options_that_exist(page: Path) -> None:
    (verbs,) = (action.choices for action in luoctl()._actions if isinstance(action, argparse._SubParsersAction))
    missing = []
    for verb, rest in re.findall(r"(?m)(?:^    |`)luoctl ([a-z][a-z-]*)([^`#\n]*)", page.read_text()):
        if verb not in verbs:
            missing.append(verb)
            continue
        command, given = verbs[verb], rest.partition(" -- ")[0]
        for word in given.split():
            command = command.verbs.get(word, command)
        options = {option for action in command._actions for option in action.option_strings}
        missing += [f"{verb} {option}" for option in re.findall(r"--[a-z-]+", given) if option not in options]
    assert missing == []


def test_the_glossary_is_short_and_sorted() -> None:
    terms = re.findall(r"(?m)^\| ([^|]+) \| [A-Z]", (ROOT / "docs/glossary.md").read_text())
    assert terms == sorted(terms, key=str.lower)
    assert 20 <= len(terms) <= 25


def test_the_two_halves_of_the_readme_meet(machine: Machine, tmp_path: Path) -> None:
    before, after = blocks("README.md")
    assert "1 << 30" in before
    before = before.replace("1 << 30", "1 << 20") + "ram.close(); session.close()"
    host = Host(machine, state_directory=tmp_path)
    python = host.python()
    host.start()
    machine.run([python.executable, "-c", before], env=python.environment)
    host.load()
    host.update(ignore=("contents-undeclared",))  # the page: the session belongs to a program that does not take part
    host.start()
    after = "import luod\n" + after + "import os; print(os.fstat(ram.fileno()).st_size); ram.close()"
    assert machine.run([python.executable, "-c", after], env=python.environment).text == f"{1 << 20}"
