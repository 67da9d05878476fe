"""A memory cgroup inside a machine, with a process in it."""

from __future__ import annotations

from luod.testing import Machine
from tests.library import Vmm

_ROOT = "/sys/fs/cgroup"


def limited(vmm: Vmm, name: str, *, limit: int) -> Vmm:
    """Returns a child of `vmm` in a cgroup of its own, `name`, with `memory.max` of `limit` bytes."""
    machine: Machine = vmm.program.machine
    child = Vmm(vmm.program, (*vmm.path, name))
    pid = vmm.ask("fork", kid=name)
    machine.write(f"{_ROOT}/cgroup.subtree_control", b"+memory")
    machine.run(["mkdir", f"{_ROOT}/{name}"])
    machine.write(f"{_ROOT}/{name}/memory.max", b"%d" % limit)
    machine.write(f"{_ROOT}/{name}/cgroup.procs", b"%d" % pid)
    return child
