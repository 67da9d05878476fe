"""luod carries the memory and the devices of running programs across a kernel update.

This package has the public names, each loaded from its module on first use (PEP 562), so that `import luod` does not
load unused parts. `Client` and `AsyncClient` are for programs on a host with luod; `LiveUpdate` is the bare device, for
programs on a host without it. There is no other code here. These modules do not log: the error has all information.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from luod.aio import *
    from luod.client import *
    from luod.errors import *
    from luod.liveupdate import IncomingSession as IncomingSession
    from luod.liveupdate import LiveUpdate as LiveUpdate
    from luod.liveupdate import OutgoingSession as OutgoingSession
    from luod.participant import *
    from luod.version import __version__ as __version__

_NAMES: Final = {
    "luod.client": "Client HeldOutgoingSession HeldIncomingSession Restored SessionInfo Description",
    "luod.participant": "Participant Phase PlannedFile FrozenDevice",
    "luod.aio": """
        AsyncClient AsyncHeldOutgoingSession AsyncHeldIncomingSession AsyncRestored AsyncParticipant AsyncPhase""",
    "luod.liveupdate": "OutgoingSession IncomingSession LiveUpdate",
    "luod.errors": """
        LuodError BadInput KernelRefused NoLiveUpdate LiveUpdateBusy LiveUpdateBroken SessionExists NoSuchSession
        SessionTaken TokenInUse FileAlreadyPreserved FileNotPreservable NoSuchToken RetrieveFailed WrongDirection
        FinishRefused SessionFrozen TargetRefused NotAKernelImage ImageDoesNotFit NoImageLoaded JumpRefused
        VfioDeviceNotQuiet VfioDeviceFrozen Refused MemoryUnknown NotEnoughMemory NotRetrieved ContentsUnknown
        UnpreserveUnavailable PostedCallUnavailable FilesMissing ComesBackSealed VfioDeviceNotBound Torn
        AlreadyResumed WrongPhase NoManifest AlreadyStashed NotStashed ManifestError ImageError ImageUnreadable
        DaemonError DaemonUnreachable ProtocolError CallFailed Busy""",
    "luod.version": "__version__",
}
"""The public names of each module, from most to least important, the errors in the order of their tree."""

__all__ = [name for names in _NAMES.values() for name in names.split()]

if not TYPE_CHECKING:  # for the type checker every name would exist

    def __getattr__(name):
        for module, names in _NAMES.items():
            if name in names.split():
                import importlib

                value = globals()[name] = getattr(importlib.import_module(module), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
