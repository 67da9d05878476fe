"""A machine to test on, driven from outside: boot it, run programs in it, jump, go on in the next boot.

For luod's own tests and for any VMM author's: the pytest plugin (`luod.testing.plugin`, found by pytest by itself)
has the fixtures `machine` and `boot_machine`. A test reads in order from before the jump to after:

    def test_guest_memory_survives(machine):
        vmm = machine.spawn(["./vmm", "--live-update"])
        with machine.expect_jump():
            machine.run(["luoctl", "update"])
        assert machine.boot == 2

`machine` is what every machine can do, `emulated` the one of `luoemu`, `channel` the line to the agent, `agent` the
init that runs inside, `interpreter` the Python that a given uid can run, `tools` what a test needs of the
host, `waiting` how a test waits.
"""

from luod.testing.emulated import EmulatedMachine
from luod.testing.host import Host
from luod.testing.machine import Machine, Program, Result
from luod.testing.tools import require_tool
from luod.testing.waiting import eventually

__all__ = ["EmulatedMachine", "Host", "Machine", "Program", "Result", "eventually", "require_tool"]
