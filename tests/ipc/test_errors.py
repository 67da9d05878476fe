"""`luod.ipc.errors`: what serve raises arrives as the interface that was called declares it, and with its type."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import pytest

from luod import errors
from luod.decode import Decoder
from luod.ipc import errors as wire
from luod.ipc.errors import SHARED, WireError, from_the_wire, on_the_wire
from luod.ipc.interfaces.idl import declared
from luod.ipc.names import ADMIN, QEMU, SERVICE, SESSIONS, UPDATES

INTERFACES: typing.Final = (SESSIONS, UPDATES, ADMIN, QEMU)


def raised() -> Iterator[errors.LuodError]:
    """Returns one of each error that serve raises."""
    for kind in vars(wire).values():
        if isinstance(kind, type) and issubclass(kind, WireError) and {*kind.interfaces} - {SERVICE}:
            hints = typing.get_type_hints(kind.__init__)
            yield kind(**{name: name for name in hints if name != "return"})
    yield errors.Refused("luod declines", hint="do something else")
    yield errors.NotEnoughMemory("too little", needed=2, available=1, limit="a cgroup")
    yield errors.KernelRefused(16, "kexec_file_load", "somebody else loads")
    yield errors.LiveUpdateBusy(16, "open")
    yield errors.LiveUpdateBroken(5, "open")
    yield errors.NotAKernelImage(8, "kexec_file_load")


@pytest.mark.parametrize("called", INTERFACES)
@pytest.mark.parametrize("error", list(raised()), ids=lambda error: type(error).__name__)
def test_an_error_is_sent_with_the_members_that_its_interface_declares(error: errors.LuodError, called: str) -> None:
    named = on_the_wire(error, called)
    assert named is not None
    name, parameters = named
    interface, _, short = name.rpartition(".")
    (types,) = (kinds for each, kinds, _comment in declared(interface) if each == short)
    assert Decoder(strict=True).parameters(types, {})(parameters) == parameters
    if any(each == short for each, _kinds, _comment in declared(called)) and short != "WrongPhase":
        assert interface == called


@pytest.mark.parametrize("interface", [SESSIONS, ADMIN])
def test_what_the_kernel_refused_arrives_with_its_errno_call_and_meaning(interface: str) -> None:
    named = on_the_wire(errors.KernelRefused(16, "kexec_file_load", "somebody else loads", hint="try again"), interface)
    assert named is not None
    assert named[0] == f"{interface}.KernelRefused"
    error = from_the_wire(*named)
    assert type(error) is errors.KernelRefused
    assert (error.errno, error.call, error.meaning) == (16, "kexec_file_load", "somebody else loads")
    assert error.hint == "try again"


def test_an_error_of_luods_arrives_in_its_own_words() -> None:
    named = on_the_wire(wire.NoSuchSession(name="vm", message="there is no session 'vm'", hint="look"), SESSIONS)
    assert named is not None
    error = from_the_wire(*named)
    assert type(error) is errors.NoSuchSession
    assert str(error) == "there is no session 'vm'"


def test_what_no_interface_declares_is_not_sent() -> None:
    assert all(on_the_wire(error, SESSIONS) is None for error in (errors.ImageError("bad"), errors.BadInput("bad")))
    assert errors.ImageError not in SHARED
