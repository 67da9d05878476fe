"""`import luod`: the public names, loaded when they are used, and what a program does not use costs it nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from types import ModuleType

import pytest

import luod
from luod import errors


def modules_after(code: str) -> set[str]:
    """Returns the modules that a fresh interpreter has loaded after `code`."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return set(json.loads(result.stdout))


@pytest.mark.parametrize("name", luod.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert not isinstance(getattr(luod, name), ModuleType)
    assert name in dir(luod)


def test_all_errors_a_program_can_get_are_public() -> None:
    found = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    of_tests = {name for name in found if issubclass(getattr(errors, name), errors.MachineError)}
    of_luod = {"PolicyError", "FleetLockError", "FleetLockRefused", "RehearsalError", "AnsibleFailed", "HostLost"}
    of_agents = {name for name in found if issubclass(getattr(errors, name), errors.QemuError)} | {"QemuRefusal"}
    assert found - of_tests - of_luod - of_agents <= set(luod.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    name = "Nothing"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        getattr(luod, name)


def test_importing_luod_loads_no_module_of_its_own() -> None:
    assert {name for name in modules_after("import luod") if name.startswith("luod.")} == set()


def test_the_blocking_client_needs_no_loop_no_thread_pool_and_no_package() -> None:
    loaded = modules_after("import luod; luod.Client; luod.Participant")
    assert not loaded & {"asyncio", "concurrent.futures", "rich"}


def test_luoctl_loads_what_a_command_needs() -> None:
    code = """
import contextlib, io
from luod.ctl.main import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["status", "--json", "--admin-socket", "/nowhere"]) == 3
"""
    loaded = modules_after(code)
    assert not loaded & {"asyncio", "rich", "logging", "luod.liveupdate", "luod.daemon"}
