"""luod carries the memory and the devices of running programs across a kernel update.

This package has the public names, each loaded from its module on first use (PEP 562), so that `import luod` does not
load unused parts. `Client` and `AsyncClient` are for programs on a host with luod; `LiveUpdate` is the bare device, for
programs on a host without it. There is no other code here. These modules do not log: the error has all information.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from luod.aio.client import AsyncClient, AsyncHeldIncomingSession, AsyncHeldOutgoingSession, AsyncRestored
    from luod.aio.participant import AsyncParticipant, AsyncPhase
    from luod.client import Client, Description, HeldIncomingSession, HeldOutgoingSession, Restored, SessionInfo
    from luod.errors import (
        AlreadyResumed,
        AlreadyStashed,
        BadInput,
        Busy,
        CallFailed,
        ComesBackSealed,
        ContentsUnknown,
        DaemonError,
        DaemonUnreachable,
        FileAlreadyPreserved,
        FileNotPreservable,
        FilesMissing,
        FinishRefused,
        ImageDoesNotFit,
        ImageError,
        ImageUnreadable,
        JumpRefused,
        KernelRefused,
        LiveUpdateBroken,
        LiveUpdateBusy,
        LuodError,
        ManifestError,
        MemoryUnknown,
        NoImageLoaded,
        NoLiveUpdate,
        NoManifest,
        NoSuchSession,
        NoSuchToken,
        NotAKernelImage,
        NotEnoughMemory,
        NotRetrieved,
        NotStashed,
        ProtocolError,
        Refused,
        RetrieveFailed,
        SessionExists,
        SessionTaken,
        TokenInUse,
        Torn,
        UnpreserveUnavailable,
        VfioDeviceFrozen,
        VfioDeviceNotBound,
        VfioDeviceNotQuiet,
        WrongDirection,
        WrongPhase,
    )
    from luod.liveupdate import IncomingSession, LiveUpdate, OutgoingSession
    from luod.participant import FrozenDevice, Participant, Phase, PlannedFile
    from luod.version import __version__

_HOMES: Final = {
    "Client": "luod.client",
    "HeldOutgoingSession": "luod.client",
    "HeldIncomingSession": "luod.client",
    "Restored": "luod.client",
    "SessionInfo": "luod.client",
    "Description": "luod.client",
    "Participant": "luod.participant",
    "Phase": "luod.participant",
    "PlannedFile": "luod.participant",
    "FrozenDevice": "luod.participant",
    "AsyncClient": "luod.aio.client",
    "AsyncHeldOutgoingSession": "luod.aio.client",
    "AsyncHeldIncomingSession": "luod.aio.client",
    "AsyncRestored": "luod.aio.client",
    "AsyncParticipant": "luod.aio.participant",
    "AsyncPhase": "luod.aio.participant",
    "OutgoingSession": "luod.liveupdate",
    "IncomingSession": "luod.liveupdate",
    "LiveUpdate": "luod.liveupdate",
    "__version__": "luod.version",
}
"""The module of each public name; the other names are errors."""

__all__ = [  # noqa: RUF022 - from most to least important, the errors in the order of their tree
    "Client",
    "HeldOutgoingSession",
    "HeldIncomingSession",
    "Restored",
    "Participant",
    "Phase",
    "PlannedFile",
    "FrozenDevice",
    "SessionInfo",
    "Description",
    "AsyncClient",
    "AsyncHeldOutgoingSession",
    "AsyncHeldIncomingSession",
    "AsyncRestored",
    "AsyncParticipant",
    "AsyncPhase",
    "OutgoingSession",
    "IncomingSession",
    "LiveUpdate",
    "LuodError",
    "BadInput",
    "KernelRefused",
    "NoLiveUpdate",
    "LiveUpdateBusy",
    "LiveUpdateBroken",
    "SessionExists",
    "NoSuchSession",
    "SessionTaken",
    "TokenInUse",
    "FileAlreadyPreserved",
    "FileNotPreservable",
    "NoSuchToken",
    "RetrieveFailed",
    "WrongDirection",
    "FinishRefused",
    "NotAKernelImage",
    "ImageDoesNotFit",
    "NoImageLoaded",
    "JumpRefused",
    "VfioDeviceNotQuiet",
    "VfioDeviceFrozen",
    "Refused",
    "MemoryUnknown",
    "NotEnoughMemory",
    "NotRetrieved",
    "ContentsUnknown",
    "UnpreserveUnavailable",
    "FilesMissing",
    "ComesBackSealed",
    "VfioDeviceNotBound",
    "Torn",
    "AlreadyResumed",
    "WrongPhase",
    "NoManifest",
    "AlreadyStashed",
    "NotStashed",
    "ManifestError",
    "ImageError",
    "ImageUnreadable",
    "DaemonError",
    "DaemonUnreachable",
    "ProtocolError",
    "CallFailed",
    "Busy",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES.get(name, "luod.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
