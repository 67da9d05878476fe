"""luod.kexec: what is refused before a call here, and the calls themselves, which are made inside a machine only."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from luod import kexec
from luod.errors import BadInput, JumpRefused
from luod.kexec import LoadLimits
from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.uapi.kexec import COMMAND_LINE_SIZE
from tests.library import Vmm, arrive, jump, load, start_vmm


class NoFile:
    """A file whose fd must not be asked for, so that no call can follow."""

    def fileno(self) -> int:
        raise AssertionError("the input should have been refused first")


@pytest.mark.parametrize(
    ("command_line", "reason"),
    [("quiet\0liveupdate=on", "NUL"), ("x" * COMMAND_LINE_SIZE, "2047"), ("ü" * (COMMAND_LINE_SIZE // 2), "2048$")],
)
def test_a_command_line_no_kernel_takes_is_refused_before_any_call(command_line: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        kexec.load(NoFile(), None, command_line)


@pytest.mark.parametrize(("text", "loaded"), [("1\n", True), ("0\n", False)])
def test_loaded_reads_what_sys_says(tmp_path: Path, text: str, loaded: bool) -> None:
    file = tmp_path / "kexec_loaded"
    file.write_text(text, encoding="ascii")
    assert kexec.loaded(file) is loaded


def test_a_kernel_without_kexec_has_none_loaded(tmp_path: Path) -> None:
    assert kexec.loaded(tmp_path / "kexec_loaded") is False


@pytest.mark.parametrize(
    ("files", "limits", "words", "remedy"),
    [
        ({}, LoadLimits(counted=False), "CAP_SYS_BOOT", "root of the host"),
        ({"proc/sys/kernel/kexec_load_limit_reboot": "-1"}, LoadLimits(), "CAP_SYS_BOOT", "root of the host"),
        (
            {"proc/sys/kernel/kexec_load_disabled": "1"},
            LoadLimits(disabled=True, counted=False),
            "kernel.kexec_load_disabled is 1",
            "/etc/sysctl.d",
        ),
        (
            {"proc/sys/kernel/kexec_load_disabled": "0", "proc/sys/kernel/kexec_load_limit_reboot": "0"},
            LoadLimits(loads_left=0),
            "kernel.kexec_load_limit_reboot is 0",
            "/etc/sysctl.d",
        ),
        (
            {"sys/kernel/security/lockdown": "none [integrity] confidentiality"},
            LoadLimits(lockdown="integrity", counted=False),
            "locked down (integrity)",
            "signed",
        ),
        (
            {"sys/kernel/security/lockdown": "[none] integrity confidentiality"},
            LoadLimits(counted=False),
            "CAP_SYS_BOOT",
            "root",
        ),
    ],
)
def test_eperm_of_a_load_names_its_cause(
    tmp_path: Path, files: dict[str, str], limits: LoadLimits, words: str, remedy: str
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="ascii")
    assert kexec.load_limits(tmp_path) == limits
    error = kexec.not_permitted(limits)
    assert error.errno == errno.EPERM
    assert words in str(error)
    assert remedy in error.hint


def test_a_kernel_without_a_limit_gets_the_highest_which_counts_loads(tmp_path: Path) -> None:
    limit = tmp_path / "proc/sys/kernel/kexec_load_limit_reboot"
    limit.parent.mkdir(parents=True)
    limit.write_text("-1\n", encoding="ascii")
    assert kexec.loads_left(tmp_path) is None
    assert kexec.count_loads(tmp_path) == 2**31 - 1
    assert limit.read_text(encoding="ascii") == str(2**31 - 1)


def test_a_limit_that_an_administrator_set_counts_loads_as_it_is(tmp_path: Path) -> None:
    limit = tmp_path / "proc/sys/kernel/kexec_load_limit_reboot"
    limit.parent.mkdir(parents=True)
    limit.write_text("7\n", encoding="ascii")
    assert kexec.count_loads(tmp_path) == kexec.loads_left(tmp_path) == 7
    assert limit.read_text(encoding="ascii") == "7\n"


def test_no_image_is_started_that_was_loaded_during_the_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [7]
    called: list[str] = []
    monkeypatch.setattr("luod.kexec.loads_left", lambda: left[0])
    monkeypatch.setattr("os.sync", lambda: left.insert(0, 6))
    monkeypatch.setattr("luod.linux.syscall", lambda name, *_arguments: called.append(name))

    with pytest.raises(JumpRefused, match="another process has loaded"):
        kexec.jump(loads=7)

    assert not called


def test_a_kernel_without_the_setting_counts_no_loads(tmp_path: Path) -> None:
    assert kexec.count_loads(tmp_path) is None


@pytest.fixture
def vmm(machine: Machine, machine_python: Interpreter) -> Vmm:
    return start_vmm(machine, machine_python)


def test_an_image_is_loaded_and_unloaded(machine: Machine, vmm: Vmm) -> None:
    assert vmm.call("loaded") is False
    load(machine, vmm)
    assert vmm.call("loaded") is True
    vmm.call("unload")
    assert vmm.call("loaded") is False
    vmm.call("unload")


def test_the_next_kernel_has_the_command_line_it_was_loaded_with(machine: Machine, vmm: Vmm) -> None:
    line = "liveupdate=on kho=on answer=42 " + "x" * 1900
    machine.write("/run/initrd", b"initrd")
    vmm.call("load", kernel=machine.kernel, initrd="/run/initrd", command_line=line)
    jump(machine, vmm)
    assert machine.boot == 2
    assert machine.read("/proc/cmdline").rstrip(b"\n") == line.encode()


def test_the_image_may_take_a_shorter_command_line_than_kernels_do(machine: Machine, vmm: Vmm) -> None:
    error = vmm.refused("load", kernel=machine.kernel, command_line="x" * (COMMAND_LINE_SIZE - 1))
    assert (error.kind, error.errno) == ("KernelRefused", "EINVAL")
    assert "command line is too long" in error.message


def test_what_is_no_kernel_leaves_what_was_loaded(machine: Machine, vmm: Vmm) -> None:
    load(machine, vmm)
    machine.write("/run/text", b"no kernel at all\n" * 1000)
    error = vmm.refused("load", kernel="/run/text", command_line="")
    assert (error.kind, error.errno) == ("NotAKernelImage", "ENOEXEC")
    assert "bzImage" in error.hint
    assert vmm.call("loaded") is True


def test_an_fd_that_is_not_open_is_the_kernels_ebadf(vmm: Vmm) -> None:
    error = vmm.refused("load_fd", kernel=-1)
    assert (error.kind, error.errno) == ("KernelRefused", "EBADF")


def test_loading_and_jumping_take_a_capability(machine: Machine, vmm: Vmm) -> None:
    load(machine, vmm)
    vmm.become(65534)
    for error, kind in (
        (vmm.refused("unload"), "KernelRefused"),
        (vmm.refused("load_fd", kernel=0), "KernelRefused"),
        (vmm.refused("jump"), "JumpRefused"),
    ):
        assert (error.kind, error.errno) == (kind, "EPERM")
        assert "CAP_SYS_BOOT" in error.message


def test_a_jump_without_an_image_is_refused_and_nothing_is_lost(
    machine: Machine, machine_python: Interpreter, vmm: Vmm
) -> None:
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram")
    vmm.call("preserve", session="s", file="ram", token=1, name="ram")
    error = vmm.refused("jump")
    assert (error.kind, error.errno) == ("NoImageLoaded", "EINVAL")
    assert machine.boot == 1
    vmm = arrive(machine, machine_python, vmm)
    vmm.call("retrieve", session="s", file="ram", slot="ram")
    assert vmm.ask("digest", fd="ram") == digest


@pytest.mark.parametrize(
    ("code", "kind"), [("EADDRNOTAVAIL", "ImageDoesNotFit"), ("ENOMEM", "ImageDoesNotFit"), ("EBUSY", "KernelRefused")]
)
def test_h21_an_image_that_does_not_fit_is_typed(machine: Machine, vmm: Vmm, code: str, kind: str) -> None:
    vmm.ask("deny", call="kexec_file_load", code=code)
    error = vmm.refused("load", kernel=machine.kernel, command_line="")
    assert (error.kind, error.errno) == (kind, code)


@pytest.mark.parametrize("code", ["EBUSY", "EIO"])
def test_a_jump_that_fails_otherwise_is_refused(machine: Machine, vmm: Vmm, code: str) -> None:
    load(machine, vmm)
    vmm.ask("deny", call="reboot", code=code)
    error = vmm.refused("jump")
    assert (error.kind, error.errno) == ("JumpRefused", code)
    assert "nothing is lost" in error.hint
    assert vmm.call("loaded") is True
