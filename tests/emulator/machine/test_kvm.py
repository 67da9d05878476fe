"""The stand-ins for KVM's files in a machine: a memfd by its name, over a kexec."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("rules", ["v4", "newest"])
def test_a_vm_and_its_memory_cross_a_kexec(run_machine: Run, rules: str) -> None:
    source = """
        if BOOT == 1:
            session = create(device(), b"vm")
            vm, memory = os.memfd_create("kvm-vm:a"), os.memfd_create("kvm-gmem:a")
            os.pwrite(memory, b"guest", 0)
            preserve(session, vm, 1)
            preserve(session, memory, 2)
            try:
                os.ftruncate(memory, 1)
            except PermissionError:
                pass
            else:
                raise SystemExit("the memory can be truncated")
            os.ftruncate(vm, 1)
            jump()
        session = retrieve_session(device(), b"vm")
        memory, vm = retrieve(session, 2), retrieve(session, 1)
        assert os.pread(memory, 10, 0) == b"guest"
        assert os.fstat(vm).st_size == 0
        assert os.readlink(f"/proc/self/fd/{memory}") == "/memfd:kvm-gmem:a (deleted)"
    """
    done = run_machine(source, "--kvm-rules", rules)
    assert done.returncode == 0, done.stderr
