"""A machine to test on, driven from outside: boot it, run programs in it, kexec, continue in the next boot.

It is for luod's own tests and for those of VMM authors: the pytest plugin (`luod.testing.plugin`, which pytest loads)
has the fixtures `luod_machine` and `luod_boot_machine`. A test reads in order from before the kexec to after it:

    def test_guest_memory_survives(luod_machine, tmp_path):
        host = Host(luod_machine, state_directory=tmp_path)
        host.start()  # luod
        luod_machine.spawn(["/usr/bin/my-vmm", "--live-update"])
        host.load()
        host.update()  # luoctl update, which does the kexec
        assert luod_machine.boot == 2

`machine` has the common interface, `emulated` the machine of `luoemu`, `kernel` that of a real kernel, `host` luod in
it, `channel` the line to the agent, `agent` the init that runs inside, `starter` the process that machines are forked
from, `forked` how a fork becomes a program, `preload` which modules it has imported, `interpreter` the Python that a
given uid can run, `tools` what a test needs of the host, `waiting` how a test waits. Each name is loaded on first use,
since the agent starts in every boot and needs few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from luod.errors import MachineEnded, MachineError, MachineJumped, MachineUnavailable, ProgramFailed
    from luod.testing.emulated import EmulatedMachine
    from luod.testing.host import Host
    from luod.testing.machine import Machine, Program, Result
    from luod.testing.tools import require_tool
    from luod.testing.waiting import eventually

_HOMES: Final = {
    "EmulatedMachine": "luod.testing.emulated",
    "Host": "luod.testing.host",
    "Machine": "luod.testing.machine",
    "MachineEnded": "luod.errors",
    "MachineError": "luod.errors",
    "MachineJumped": "luod.errors",
    "MachineUnavailable": "luod.errors",
    "Program": "luod.testing.machine",
    "ProgramFailed": "luod.errors",
    "Result": "luod.testing.machine",
    "eventually": "luod.testing.waiting",
    "require_tool": "luod.testing.tools",
}
"""The module of each public name."""

__all__ = [
    "EmulatedMachine",
    "Host",
    "Machine",
    "MachineEnded",
    "MachineError",
    "MachineJumped",
    "MachineUnavailable",
    "Program",
    "ProgramFailed",
    "Result",
    "eventually",
    "require_tool",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
