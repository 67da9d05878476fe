"""The public surface, name by name: a change of it is a change of this list. Types are in tests/typing/vmm_usage.py."""

from __future__ import annotations

import inspect
from typing import Any, Final

import pytest

import luod
from luod import frozen

_SESSION: Final = "close duplicate fileno name"
_OUTGOING: Final = f"{_SESSION} about annotate contents has_manifest preserve release replace tokens unpreserve"
_INCOMING: Final = f"{_SESSION} about contents discard finish finished holds retrieve unretrieved"
_CLIENT: Final = (  # and attributes
    "about adopt close create create_many describe discard drop_stash manifest restore retrieve retrieve_many sessions "
    "stash unstash"
)
_RESTORED: Final = "close discard finish frozen generation name names resume retrieve running sessions"
_PARTICIPANT: Final = "close declare fileno next run"
_PHASE: Final = "awaits_vote create frozen_devices generation kind ready reason seconds_left veto voted"

MEMBERS: Final = {
    "Client": _CLIENT,
    "HeldOutgoingSession": _OUTGOING,
    "HeldIncomingSession": _INCOMING,
    "Restored": _RESTORED,
    "Participant": _PARTICIPANT,
    "Phase": _PHASE,
    "PlannedFile": "allocated device kind name session size token when",
    "FrozenDevice": "name session token",
    "SessionInfo": "direction name owner state",
    "Description": (
        "bytes direction freezing_seconds generation name owner participant preparing_seconds process state update"
    ),
    "AsyncClient": _CLIENT,
    "AsyncHeldOutgoingSession": _OUTGOING,
    "AsyncHeldIncomingSession": _INCOMING,
    "AsyncRestored": _RESTORED,
    "AsyncParticipant": _PARTICIPANT,
    "AsyncPhase": _PHASE,
    "OutgoingSession": f"{_SESSION} about annotate contents detach freeze has_manifest preserve tokens unpreserve",
    "IncomingSession": f"{_SESSION} about contents detach finish finished holds retrieve unretrieved",
    "LiveUpdate": "close create create_session fileno retrieve retrieve_session",
}
"""The public members of each class that is not an error; attributes of instances apart."""

ERRORS: Final = """
    LuodError BadInput KernelRefused NoLiveUpdate LiveUpdateBusy LiveUpdateBroken SessionExists NoSuchSession
    SessionTaken TokenInUse FileAlreadyPreserved FileNotPreservable NoSuchToken RetrieveFailed WrongDirection
    FinishRefused SessionFrozen TargetRefused NotAKernelImage ImageDoesNotFit NoImageLoaded JumpRefused
    VfioDeviceNotQuiet VfioDeviceFrozen Refused MemoryUnknown NotEnoughMemory NotRetrieved ContentsUnknown
    UnpreserveUnavailable PostedCallUnavailable FilesMissing ComesBackSealed VfioDeviceNotBound Torn
    AlreadyResumed WrongPhase NoManifest AlreadyStashed NotStashed ManifestError ImageError ImageUnreadable
    DaemonError DaemonUnreachable ProtocolError CallFailed Busy
"""

PAIRS: Final = [(name.removeprefix("Async"), name) for name in MEMBERS if name.startswith("Async")]


def members(name: str) -> set[str]:
    kind = getattr(luod, name)
    attributes = {*dir(kind), *getattr(kind, "__dataclass_fields__", {}), *frozen.members(kind)}
    return {member for member in attributes if not member.startswith("_")}


def test_the_names_are_these() -> None:
    assert set(luod.__all__) == {*MEMBERS, *ERRORS.split(), "__version__"}
    assert len(luod.__all__) == len(set(luod.__all__))


@pytest.mark.parametrize("name", MEMBERS)
def test_the_members_of_a_class_are_these(name: str) -> None:
    assert members(name) == set(MEMBERS[name].split())


@pytest.mark.parametrize("name", ERRORS.split())
def test_each_error_is_in_the_tree(name: str) -> None:
    assert issubclass(getattr(luod, name), luod.LuodError)


@pytest.mark.parametrize(("blocking", "asyncio"), PAIRS)
def test_the_two_surfaces_have_one_shape(blocking: str, asyncio: str) -> None:
    """The same members, with the same parameters; what a session's fd or its contents say needs no coroutine."""
    assert members(blocking) == members(asyncio)
    for name in {*members(blocking), "__init__"}:
        one, other = getattr(getattr(luod, blocking), name), getattr(getattr(luod, asyncio), name)
        if not callable(one):
            continue
        assert parameters(one) == parameters(other), name
        assert inspect.iscoroutinefunction(other) or name in ("close", "duplicate", "fileno", "__init__"), name


def parameters(function: Any) -> list[tuple[str, Any, object]]:
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("surface", [luod.Client, luod.AsyncClient])
def test_a_client_has_these_attributes(surface: type[luod.Client | luod.AsyncClient]) -> None:
    client = surface("/nowhere", timeout=1.0, patience=2.0)
    public = {name: value for name, value in vars(client).items() if not name.startswith("_")}
    assert public == {"path": "/nowhere", "timeout": 1.0, "patience": 2.0}
