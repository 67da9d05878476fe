"""The profile `next`: FREEZE, and arguments of PRESERVE_FD and RETRIEVE_FD, as posted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from errno import E2BIG, EBADF, EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP
from typing import Any

import pytest

from luod.emulator.model.handler import FileHandler
from luod.emulator.model.kernel import Kernel, default_handlers
from luod.emulator.model.ports import Host, Kind
from luod.emulator.model.profile import Profile
from luod.emulator.model.results import Jump
from luod.uapi import liveupdate
from luod.uapi import liveupdate_next as posted
from tests.emulator.model.test_handlers import BOTH, Bus, DeviceHandler
from tests.emulator.model.world import COMMAND_LINE, PAGE, READ_ONLY, SCRATCH, Process, World, boot, jump, number

NR = posted.LIVEUPDATE_SESSION_FREEZE


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def world(bus: Bus) -> Iterator[World]:
    default = default_handlers(Profile.NEXT.features)

    def handlers(host: Host) -> Sequence[FileHandler[Any, Any]]:
        return *default(host), DeviceHandler(bus)

    machine = boot(lambda host: Kernel(host, features=Profile.NEXT.features, handlers=handlers))
    bus.world = machine
    yield machine
    machine.switch_off()


@pytest.fixture
def device(vmm: Process) -> int:
    return number(vmm.open_device())


def session(vmm: Process, device: int, name: bytes = b"s", *tokens: int) -> int:
    made = number(vmm.create(device, name))
    for token in tokens:
        assert vmm.preserve(made, vmm.memfd(b"ram %d" % token), token) == 0
    return made


def freeze(
    vmm: Process, made: int, *, size: int = 8, reserved: int = 0, tail: bytes = b"", at: int | None = None
) -> object:
    argument = posted.SESSION_FREEZE.pack(size, reserved) + tail
    return vmm.call(made, NR, argument) if at is None else vmm.call(made, NR, argument, at)


def test_a_frozen_session_takes_nothing_and_is_carried(world: World, vmm: Process, device: int) -> None:
    made = session(vmm, device, b"s", 1)
    assert freeze(vmm, made) == 0
    assert freeze(vmm, made) == -EBUSY
    assert vmm.preserve(made, vmm.memfd(), 2) == -EBUSY
    assert vmm.get_name(made) == b"s".ljust(64, b"\0")
    late = jump(world, vmm)
    incoming = number(late.retrieve_session(late.open_device(), b"s"))
    assert freeze(late, incoming) == -EINVAL
    assert late.contents(number(late.retrieve(incoming, 1))) == b"ram 1"


def test_the_checks_of_freeze(vmm: Process, device: int) -> None:
    made = session(vmm, device)
    assert freeze(vmm, made, reserved=1) == -EINVAL
    assert freeze(vmm, made, size=7) == -EINVAL
    assert freeze(vmm, made, size=12, tail=b"\0\0\0\1") == -E2BIG
    assert freeze(vmm, made, size=12, tail=b"\0\0\0\0") == 0


def test_a_freeze_that_cannot_be_reported_took_place(vmm: Process, device: int) -> None:
    made = session(vmm, device)
    assert freeze(vmm, made, at=READ_ONLY) == -EFAULT
    assert freeze(vmm, made) == -EBUSY


def test_the_last_close_of_a_frozen_session_undoes_everything(bus: Bus, vmm: Process, device: int) -> None:
    made = session(vmm, device)
    assert vmm.preserve(made, vmm.memfd(kind=Kind.OTHER, data=b"a"), 1) == 0
    assert freeze(vmm, made) == 0
    vmm.close(made)
    assert bus.calls[-3:] == ["freeze a", "unfreeze a", "unpreserve a"]
    assert number(vmm.create(device, b"s"))


def test_a_handler_that_refuses_leaves_the_session_as_it_was(bus: Bus, vmm: Process, device: int) -> None:
    made = session(vmm, device)
    for name, token in ((b"a", 1), (b"b", 2)):
        assert vmm.preserve(made, vmm.memfd(kind=Kind.OTHER, data=name), token) == 0
    bus.stuck.add("b")
    assert freeze(vmm, made) == -EINVAL
    assert bus.calls[-2:] == ["freeze a", "unfreeze a"]
    bus.stuck.clear()
    assert vmm.preserve(made, vmm.memfd(), 3) == 0
    assert freeze(vmm, made) == 0


def test_a_kexec_that_fails_leaves_the_frozen_sessions_frozen(
    bus: Bus, world: World, vmm: Process, device: int
) -> None:
    early, late = session(vmm, device, b"early"), session(vmm, device, b"late")
    assert vmm.preserve(early, vmm.memfd(kind=Kind.OTHER, data=b"a"), 1) == 0
    assert vmm.preserve(late, vmm.memfd(kind=Kind.OTHER, data=b"b"), 1) == 0
    assert freeze(vmm, early) == 0
    bus.stuck.add("b")
    assert vmm.kexec_file_load(BOTH, COMMAND_LINE) == 0
    assert vmm.reboot() == -EINVAL
    assert "unfreeze a" not in bus.calls
    assert freeze(vmm, early) == -EBUSY
    bus.stuck.clear()
    assert isinstance(vmm.reboot(), Jump)
    assert bus.calls.count("freeze a") == 1


# Arguments


def with_argument(vmm: Process, made: int, command: int, fd: int, token: int, argument: int) -> int:
    """Returns the fd field after PRESERVE_FD or RETRIEVE_FD, or the errno."""
    result = vmm.call(made, command, posted.SESSION_PRESERVE_FD.pack(24, fd, token, argument))
    assert isinstance(result, int)
    return result or posted.SESSION_PRESERVE_FD.unpack(vmm.read(SCRATCH, 24))[1]


def preserve(vmm: Process, made: int, fd: int, token: int, argument: int) -> int:
    return with_argument(vmm, made, liveupdate.LIVEUPDATE_SESSION_PRESERVE_FD, fd, token, argument)


def retrieve(vmm: Process, made: int, token: int, target: int | None = None, *, size: int = 8) -> int:
    """Retrieves a file into `target`."""
    if target is not None:
        vmm.poke(SCRATCH + 512, posted.MEMFD_RETRIEVE_ARG.pack(size, target))
    address = 0 if target is None else SCRATCH + 512
    return with_argument(vmm, made, liveupdate.LIVEUPDATE_SESSION_RETRIEVE_FD, -1, token, address)


def test_no_handler_takes_an_argument_of_preserve(vmm: Process, device: int) -> None:
    made, memfd, other = session(vmm, device), vmm.memfd(b"ram"), vmm.memfd(kind=Kind.SESSION)
    assert preserve(vmm, made, memfd, 1, SCRATCH) == -EOPNOTSUPP
    assert preserve(vmm, made, other, 1, SCRATCH) == -ENOENT, "the handler is looked for first"
    assert preserve(vmm, made, memfd, 1, 0) == memfd
    assert vmm.preserve(made, vmm.memfd(), 2) == 0, "a caller of Linux 7.3"
    longer = posted.SESSION_PRESERVE_FD.pack(32, memfd, 3, 0) + bytes(7) + b"\1"
    assert vmm.call(made, liveupdate.LIVEUPDATE_SESSION_PRESERVE_FD, longer) == -E2BIG


def test_a_handler_without_arguments_refuses_one_and_keeps_the_file(world: World, vmm: Process, device: int) -> None:
    made = session(vmm, device)
    assert vmm.preserve(made, vmm.memfd(b"a", kind=Kind.OTHER), 1) == 0
    late = jump(world, vmm, image=BOTH)
    incoming = number(late.retrieve_session(late.open_device(), b"s"))
    assert retrieve(late, incoming, 1, 0) == -EOPNOTSUPP
    assert retrieve(late, incoming, 9, 0) == -ENOENT
    assert retrieve(late, incoming, 1) > 0


def test_the_old_structure_at_the_end_of_memory_is_enough(world: World, vmm: Process, device: int) -> None:
    """The answer has as many bytes as the caller passed: what is behind them need not be there."""
    made = session(vmm, device)
    assert vmm.preserve(made, vmm.memfd(b"ram"), 1) == 0
    late = jump(world, vmm)
    incoming = number(late.retrieve_session(late.open_device(), b"s"))
    old = liveupdate.SESSION_RETRIEVE_FD.pack(liveupdate.SESSION_RETRIEVE_FD.size, -1, 1)
    end = SCRATCH + 2 * PAGE
    assert late.call(incoming, liveupdate.LIVEUPDATE_SESSION_RETRIEVE_FD, old, end - len(old)) == 0
    fd = liveupdate.SESSION_RETRIEVE_FD.unpack(late.read(end - len(old), len(old)))[1]
    assert late.contents(fd) == b"ram"


# Files of a tmpfs


@pytest.fixture
def late(world: World, vmm: Process, device: int) -> Process:
    """Returns a process of the next kernel. Session `s` has a file of a tmpfs under 1, a memfd under 2."""
    made = session(vmm, device)
    assert vmm.preserve(made, vmm.memfd(b"contents", kind=Kind.TMPFS), 1) == 0
    assert vmm.preserve(made, vmm.memfd(b"ram"), 2) == 0
    return jump(world, vmm)


DEVICE = 3


@pytest.fixture
def incoming(late: Process) -> int:
    assert late.open_device() == DEVICE
    return number(late.retrieve_session(DEVICE, b"s"))


def tmpfs(vmm: Process, data: bytes = b"") -> int:
    return vmm.memfd(data, kind=Kind.TMPFS)


def test_a_target_that_is_preserved_is_refused_and_stays_empty(late: Process, incoming: int) -> None:
    target = tmpfs(late)
    outgoing = number(late.create(DEVICE, b"t"))
    assert late.preserve(outgoing, target, 1) == 0
    assert retrieve(late, incoming, 1, target) == -EBUSY
    assert late.contents(target) == b""
    assert retrieve(late, incoming, 1, tmpfs(late)) > 0
    assert late.finish(incoming) == 0
    late.close(outgoing)


def test_a_file_of_a_tmpfs_is_retrieved_into_an_empty_one(late: Process, incoming: int) -> None:
    target = tmpfs(late)
    given = retrieve(late, incoming, 1, target)
    assert late.contents(target) == b"contents"
    assert late.fds[given].target is late.fds[target].target
    assert retrieve(late, incoming, 1) > 0, "once retrieved, it is there as any file"
    assert late.finish(incoming) == 0


def test_errors_of_the_argument_can_be_repaired(late: Process, incoming: int) -> None:
    read_only = tmpfs(late)
    late.fds[read_only].writable = False
    assert retrieve(late, incoming, 1) == -EINVAL, "no target"
    assert retrieve(late, incoming, 1, read_only) == -EBADF
    assert retrieve(late, incoming, 1, 99) == -EBADF
    assert retrieve(late, incoming, 1, late.memfd()) == -EINVAL, "not of a tmpfs"
    assert retrieve(late, incoming, 1, tmpfs(late, b"x")) == -EINVAL, "not empty"
    assert retrieve(late, incoming, 1, tmpfs(late), size=7) == -EINVAL
    assert retrieve(late, incoming, 1, tmpfs(late)) > 0
    assert retrieve(late, incoming, 2, tmpfs(late)) == -EINVAL, "a memfd takes no target"
    assert late.contents(retrieve(late, incoming, 2)) == b"ram"


def test_a_target_is_filled_once(world: World, vmm: Process, device: int) -> None:
    made = session(vmm, device)
    for token in (1, 2):
        assert vmm.preserve(made, tmpfs(vmm), token) == 0
    late = jump(world, vmm)
    incoming, target = number(late.retrieve_session(late.open_device(), b"s")), tmpfs(late)
    assert retrieve(late, incoming, 1, target) > 0
    assert retrieve(late, incoming, 2, target) == -EBUSY
    assert retrieve(late, incoming, 2, tmpfs(late)) > 0
    assert late.finish(incoming) == 0


def test_a_lack_of_memory_stays_final(world: World, late: Process, incoming: int) -> None:
    world.take_over_error = ENOMEM
    assert retrieve(late, incoming, 1, tmpfs(late)) == -ENOMEM
    world.take_over_error = 0
    assert retrieve(late, incoming, 1, tmpfs(late)) == -ENOMEM


def test_linux_7_3_has_none_of_it(bus: Bus) -> None:
    world = boot()
    vmm = Process(world)
    made = session(vmm, number(vmm.open_device()))
    assert freeze(vmm, made) == -EINVAL
    assert vmm.preserve(made, tmpfs(vmm), 1) == -ENOENT
    assert preserve(vmm, made, vmm.memfd(), 1, SCRATCH) == -E2BIG
    assert preserve(vmm, made, vmm.memfd(), 1, 0) > 0
    vmm.die()
    world.kernel.close()
