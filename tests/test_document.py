"""The promises of the kernel's document, one test a row: docs/promises.md. On the kernel's own calls, without luod.

`luod` in a name here is the central process the document speaks of, played by a program that opens the device; a VMM is
another process, of another uid, that got its session over a Unix socket.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator

import pytest

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import BootMachine, booting_machines
from luod.uapi import liveupdate as uapi
from tests.library import Vmm, jump, load, start_vmm

VMM_UID = 1000


@pytest.fixture(scope="module")
def shared_kernel(machine_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine | None]:
    """Yields the one real kernel of all tests, whose boot takes longer than most of them; None if they are emulated."""
    if machine_kind == "emulated":
        yield None
        return
    with booting_machines(machine_kind, scratch=tmp_path_factory.getbasetemp()) as boot:
        yield boot()


@pytest.fixture
def machine(shared_kernel: Machine | None, boot_machine: BootMachine) -> Iterator[Machine]:
    """Yields a machine in which no process of an earlier test runs."""
    if shared_kernel is None:
        yield boot_machine()
        return
    yield shared_kernel
    shared_kernel.end_programs()


@pytest.fixture
def machine_of_profile(profile: str, machine: Machine, boot_machine: BootMachine) -> Machine:
    """Returns a machine of the test's profile: of `mainline`, that is `machine`."""
    return machine if profile == "mainline" else boot_machine(profile=profile)


@pytest.fixture
def luod(machine: Machine, machine_python: Interpreter) -> Vmm:
    """Starts the central process of boot 1, with /dev/liveupdate open as "device"."""
    return start_luod(machine, machine_python)


def start_luod(machine: Machine, python: Interpreter) -> Vmm:
    process = start_vmm(machine, python)
    process.open_device()
    return process


def fork_vmm(luod: Vmm, name: str = "vmm") -> Vmm:
    """Forks a less privileged process that has a Unix socket and nothing else of luod's: "theirs" there, "ours" in
    luod.

    To be called before luod has sessions, which a fork would inherit.
    """
    luod.ask("close", fd="device")
    luod.ask("socketpair", slots=["ours", "theirs"])
    vmm = luod.fork_vmm(name)
    vmm.ask("close", fd="ours")
    vmm.become(VMM_UID)
    luod.ask("close", fd="theirs")
    luod.open_device()
    return vmm


def create(luod: Vmm, name: str = "vm", slot: str = "s") -> None:
    luod.ask("create", device="device", name=name, slot=slot)


def next_boot(machine: Machine, python: Interpreter, process: Vmm) -> Vmm:
    """Loads the next kernel and jumps; luod of the next boot."""
    load(machine, process)
    jump(machine, process)
    return start_luod(machine, python)


def retrieve(luod: Vmm, name: str = "vm", slot: str = "s") -> str:
    return luod.says("retrieve", device="device", name=name, slot=slot)


def is_preserved(process: Vmm, slot: str) -> bool:
    """Returns whether a session holds the file, so that no other can."""
    process.ask("create", device="device", name="probe", slot="probe")
    said = process.says("preserve", session="probe", fd=slot, token=1)
    process.ask("close", fd="probe")
    assert said in ("OK", "EBUSY")
    return said == "EBUSY"


def test_d01_one_open_of_the_device_shared_by_dup_and_fork(luod: Vmm) -> None:
    assert luod.says("open", path=uapi.DEVICE, flags=os.O_RDWR, slot="second") == "EBUSY"
    luod.ask("dup", fd="device", slot="dup")
    child = luod.fork("child")
    luod.ask("close", fd="device")
    luod.ask("create", device="dup", name="by dup", slot="by dup")
    child.ask("create", device="device", name="by fork", slot="by fork")
    luod.ask("close", fd="dup")
    # The child still has it open.
    assert luod.says("open", path=uapi.DEVICE, flags=os.O_RDWR, slot="second") == "EBUSY"
    luod.ask("end", kid="child")
    luod.ask("open", path=uapi.DEVICE, flags=os.O_RDWR, slot="second")


def test_d02_a_session_is_created_by_name_and_comes_as_an_fd(luod: Vmm) -> None:
    argument = struct.pack("=Ii64s", 72, -1, b"vm")
    result, answer = luod.ask("ioctl", fd="device", command=0xBA00, data=argument)
    size, fd, name = struct.unpack("=Ii64s", answer.encode("latin-1"))
    assert (result, size, name.rstrip(b"\0")) == (0, 72, b"vm")
    assert fd > 2
    assert luod.ask("get_name", session=fd).rstrip("\0") == "vm"
    assert luod.says("create", device="device", name="vm", slot="again") == "EEXIST"


def test_d03_a_less_privileged_process_preserves_with_a_session_it_was_sent(
    machine: Machine, machine_python: Interpreter, luod: Vmm
) -> None:
    vmm = fork_vmm(luod)
    create(luod)
    luod.ask("send_fd", over="ours", fd="s")
    vmm.ask("receive_fd", over="theirs", slot="s")
    assert vmm.says("open", path=uapi.DEVICE, flags=os.O_RDWR, slot="device") == "EACCES"
    digest = vmm.preserved_memfd(token=5, size=100_000)
    luod = next_boot(machine, machine_python, luod)
    assert retrieve(luod) == "OK"
    luod.ask("retrieve_fd", session="s", token=5, slot="m")
    assert luod.ask("digest", fd="m") == digest


def test_d04_a_file_is_preserved_with_a_token_unique_in_its_session(luod: Vmm) -> None:
    create(luod)
    fd = luod.ask("memfd", slot="m", size=4096)
    argument = struct.pack("=IiQ", 16, fd, 7)
    assert luod.ask("ioctl", fd="s", command=0xBA40, data=argument)[0] == 0
    luod.ask("memfd", slot="n", size=4096)
    assert luod.says("preserve", session="s", fd="n", token=7) == "EEXIST"
    assert luod.says("preserve", session="s", fd="n", token=8) == "OK"
    create(luod, "another", "t")
    luod.ask("memfd", slot="o", size=4096)
    assert luod.says("preserve", session="t", fd="o", token=7) == "OK"


def test_d05_a_file_can_be_unpreserved_by_the_ioctl_of_the_document(
    boot_machine: BootMachine, machine_python: Interpreter
) -> None:
    machine = boot_machine(profile="document")
    luod = start_luod(machine, machine_python)
    create(luod)
    luod.preserved_memfd(token=1, slot="gone")
    kept = luod.preserved_memfd(token=2, slot="kept")
    assert is_preserved(luod, "gone")
    assert luod.says("unpreserve", session="s", token=1) == "OK"
    assert not is_preserved(luod, "gone")
    assert luod.says("unpreserve", session="s", token=1) == "ENOENT"
    luod = next_boot(machine, machine_python, luod)
    assert retrieve(luod) == "OK"
    assert luod.says("retrieve_fd", session="s", token=1, slot="m") == "ENOENT"
    luod.ask("retrieve_fd", session="s", token=2, slot="m")
    assert luod.ask("digest", fd="m") == kept


def test_d05_a_file_can_be_unpreserved_by_making_its_session_anew(
    machine: Machine, machine_python: Interpreter, luod: Vmm
) -> None:
    create(luod)
    luod.preserved_memfd(token=1, slot="gone")
    kept = luod.preserved_memfd(token=2, slot="kept")
    luod.ask("close", fd="s")
    create(luod, slot="anew")
    luod.ask("preserve", session="anew", fd="kept", token=2)
    assert not is_preserved(luod, "gone")
    luod = next_boot(machine, machine_python, luod)
    assert retrieve(luod) == "OK"
    assert luod.says("retrieve_fd", session="s", token=1, slot="m") == "ENOENT"
    luod.ask("retrieve_fd", session="s", token=2, slot="m")
    assert luod.ask("digest", fd="m") == kept


def test_d06_files_are_unpreserved_with_the_last_reference_to_their_session(
    machine: Machine, machine_python: Interpreter, luod: Vmm
) -> None:
    create(luod)
    luod.preserved_memfd()
    child = luod.fork("child")
    luod.ask("dup", fd="s", slot="dup")
    luod.ask("close", fd="s")
    assert is_preserved(luod, "m")
    luod.ask("close", fd="dup")
    assert is_preserved(luod, "m")
    del child
    assert luod.ask("end", kid="child", number=signal.SIGKILL) == -signal.SIGKILL
    assert not is_preserved(luod, "m")
    luod = next_boot(machine, machine_python, luod)
    assert retrieve(luod) == "ENOENT"


@pytest.mark.parametrize("holder", ["itself", "child", "program", "message in flight"])
def test_d07_a_session_held_until_the_jump_is_carried(
    machine: Machine, machine_python: Interpreter, luod: Vmm, holder: str
) -> None:
    create(luod)
    digest = luod.preserved_memfd()
    match holder:
        case "child":
            luod.fork("child")
        case "program":
            luod.fork("child").become_program("/bin/sleep", "1000", keep=("s",))
        case "message in flight":
            luod.ask("socketpair", slots=["ours", "theirs"])
            luod.ask("send_fd", over="ours", fd="s")
    if holder != "itself":
        luod.ask("close", fd="s")
    luod.ask("close", fd="device")
    luod = next_boot(machine, machine_python, luod)
    assert retrieve(luod) == "OK"
    luod.ask("retrieve_fd", session="s", token=1, slot="m")
    assert luod.ask("digest", fd="m") == digest


def test_d07_a_session_let_go_before_the_jump_is_not_carried(
    machine: Machine, machine_python: Interpreter, luod: Vmm
) -> None:
    load(machine, luod)
    create(luod)
    luod.preserved_memfd()
    luod.ask("close", fd="s")
    jump(machine, luod)
    assert retrieve(start_luod(machine, machine_python)) == "ENOENT"


def test_d08_a_preserved_file_outlives_the_fd_it_was_preserved_by(
    machine: Machine, machine_python: Interpreter, luod: Vmm
) -> None:
    create(luod)
    vmm = luod.fork("vmm")
    digest = vmm.preserved_memfd(size=1 << 20)
    # No process has the memfd open any more, or ever will again in this kernel.
    luod.ask("end", kid="vmm")
    luod = next_boot(machine, machine_python, luod)
    assert retrieve(luod) == "OK"
    luod.ask("retrieve_fd", session="s", token=1, slot="m")
    assert luod.ask("digest", fd="m") == digest


@pytest.mark.parametrize(
    "kind",
    ["tmpfs file, linked", "directory", "/dev/null", "pipe, read end", "eventfd", "epoll", "unix socket", "tcp socket"],
)
def test_d09_a_file_of_another_kind_is_refused(luod: Vmm, kind: str) -> None:
    create(luod)
    luod.ask("make", kind=kind, slot="file")
    assert luod.says("preserve", session="s", fd="file", token=1) == "ENOENT"
    luod.ask("memfd", slot="m", size=4096)
    assert luod.says("preserve", session="s", fd="m", token=1) == "OK"


@pytest.mark.parametrize("what", ["s", "device"])
def test_d09_sessions_and_the_device_itself_are_refused(luod: Vmm, what: str) -> None:
    create(luod)
    create(luod, "another", "t")
    assert luod.says("preserve", session="t", fd=what, token=1) == "ENOENT"


def test_d10_a_session_is_retrieved_by_name_and_passed_to_its_vmm(
    machine: Machine, machine_python: Interpreter, luod: Vmm
) -> None:
    digests = {}
    for name in ("vm 1", "vm 2"):
        create(luod, name, name)
        digests[name] = luod.preserved_memfd(slot=f"memory of {name}", session=name, size=len(name) * 1000)
    luod = next_boot(machine, machine_python, luod)
    vmm = fork_vmm(luod)
    assert retrieve(luod, "vm") == "ENOENT"
    result, answer = luod.ask("ioctl", fd="device", command=0xBA01, data=struct.pack("=Ii64s", 72, -1, b"vm 2"))
    assert result == 0
    luod.ask("send_fd", over="ours", fd=struct.unpack_from("=Ii", answer.encode("latin-1"))[1])
    vmm.ask("receive_fd", over="theirs", slot="s")
    assert vmm.ask("get_name", session="s").rstrip("\0") == "vm 2"
    vmm.ask("retrieve_fd", session="s", token=1, slot="m")
    assert vmm.ask("digest", fd="m") == digests["vm 2"]
    assert vmm.says("finish", session="s") == "OK"


def test_d11_each_file_is_retrieved_by_its_token(machine: Machine, machine_python: Interpreter, luod: Vmm) -> None:
    tokens = [3, 0, 2**64 - 1, 7]
    create(luod)
    digests = {
        token: luod.preserved_memfd(token=token, slot=f"m{token}", size=5000 + index)
        for index, token in enumerate(tokens)
    }
    luod = next_boot(machine, machine_python, luod)
    assert retrieve(luod) == "OK"
    assert luod.says("retrieve_fd", session="s", token=1, slot="none") == "ENOENT"
    for token in sorted(tokens):
        argument = struct.pack("=IiQ", 16, -1, token)
        result, answer = luod.ask("ioctl", fd="s", command=0xBA41, data=argument)
        size, fd, echoed = struct.unpack("=IiQ", answer.encode("latin-1"))
        assert (result, size, echoed) == (0, 16, token)
        assert luod.ask("digest", fd=fd) == digests[token]


@pytest.mark.parametrize("profile", ["mainline", "document"])
def test_d12_a_session_is_finished_once_its_files_are_retrieved(
    machine_of_profile: Machine, machine_python: Interpreter, profile: str
) -> None:
    machine = machine_of_profile
    luod = start_luod(machine, machine_python)
    create(luod)
    digests = [luod.preserved_memfd(token=token, slot=f"m{token}") for token in (1, 2)]
    luod = next_boot(machine, machine_python, luod)
    assert retrieve(luod) == "OK"
    luod.ask("retrieve_fd", session="s", token=1, slot="m1")
    if profile == "document":
        assert luod.says("finish", session="s") == "EBUSY"
    luod.ask("retrieve_fd", session="s", token=2, slot="m2")
    assert luod.says("finish", session="s") == "OK"
    assert luod.says("retrieve_fd", session="s", token=1, slot="again") == "ENOENT"
    assert [luod.ask("digest", fd=f"m{token}") for token in (1, 2)] == digests
    luod.ask("close", fd="s")
    assert retrieve(luod, slot="again") == "ENOENT"


def test_d12_mainline_drops_a_memfd_that_was_not_retrieved(
    machine: Machine, machine_python: Interpreter, luod: Vmm
) -> None:
    create(luod)
    luod.preserved_memfd()
    luod = next_boot(machine, machine_python, luod)
    assert retrieve(luod) == "OK"
    assert luod.says("finish", session="s") == "OK"
    assert luod.says("retrieve_fd", session="s", token=1, slot="m") == "ENOENT"


@pytest.mark.parametrize("profile", ["mainline", "document"])
def test_d12_the_library_refuses_to_drop_it_on_every_kernel(
    machine_of_profile: Machine, machine_python: Interpreter, profile: str
) -> None:
    machine = machine_of_profile
    vmm = start_vmm(machine, machine_python)
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("m")
    vmm.call("preserve", session="s", file="m", token=1)
    load(machine, vmm)
    jump(machine, vmm)
    vmm = start_vmm(machine, machine_python)
    vmm.call("retrieve_session", name="vm", slot="s")
    assert vmm.refused("finish", session="s").kind == "NotRetrieved"
    vmm.call("retrieve", session="s", file=1, slot="m")
    assert vmm.ask("digest", fd="m") == digest
    vmm.call("finish", session="s")
