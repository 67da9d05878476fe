"""The errors of luod on the wire, and the exceptions of programs for them: one table for both sides.

`luod.liveupdate.calls` and `luod.kexec` convert an errno of the kernel to a typed error. serve raises that, or
`luod.errors.Refused`, or one of the classes below. `on_the_wire` returns its name and parameters in the called
interface. In the client, `from_the_wire` converts them to a typed error. Every error has `message` and `hint`. Standard
library only.
"""

from __future__ import annotations

import errno

from luod import errors
from luod.errors import LuodError
from luod.ipc.names import ADMIN, FILES_NOT_RECEIVED, QEMU, SERVICE, SESSIONS, TOO_MANY_CONNECTIONS, UPDATES
from luod.static import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    Caught = tuple[type[LuodError], int]
    """The exception of a client; of a subclass of KernelRefused, with its errno."""

SHARED: Final[dict[type[LuodError], tuple[str, ...]]] = {
    errors.Refused: (SESSIONS, UPDATES, ADMIN, QEMU),
    errors.KernelRefused: (SESSIONS, ADMIN),
}
"""Errors of the library that serve raises unchanged, and the interfaces that declare them."""
_CAUGHT: Final[dict[str, Caught]] = dict.fromkeys((TOO_MANY_CONNECTIONS, FILES_NOT_RECEIVED), (errors.Busy, 0)) | {
    f"{interface}.{kind.__name__}": (kind, 0) for kind, interfaces in SHARED.items() for interface in interfaces
}
"""The exception of a client for an error, by its full name."""


class WireError(LuodError):
    """An error that serve answers with. `name` is its name in the first of the `interfaces` that declare it."""

    name: ClassVar[str]
    interfaces: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(
        cls, *, of: tuple[str, ...] = (), name: str = "", caught: type[LuodError] = errors.CallFailed, code: int = 0
    ) -> None:
        cls.interfaces = of
        for interface in reversed(of):
            cls.name = f"{interface}.{name or cls.__name__}"
            _CAUGHT[cls.name] = caught, code

    def __init__(self, *, message: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.parameters: dict[str, Any] = {"message": message, "hint": hint}


class SessionError(WireError):
    """An error about the session, or the set of files, `name`."""

    def __init__(self, *, name: str, message: str, hint: str) -> None:
        super().__init__(message=message, hint=hint)
        self.parameters = {"name": name, **self.parameters}


class PhaseError(WireError):
    """An error about the `state` of luod."""

    def __init__(self, *, state: str, message: str, hint: str) -> None:
        super().__init__(message=message, hint=hint)
        self.parameters = {"state": state, **self.parameters}


class CallError(WireError):
    """An error about a call itself. Varlink defines its parameters, which do not include a message."""

    def __init__(self, **parameters: str) -> None:
        super().__init__(message=", ".join((type(self).__name__, *parameters.values())), hint="")
        self.parameters = dict(parameters)


class InterfaceNotFound(CallError, of=(SERVICE,)):
    """The service does not have the `interface`."""


class MethodNotFound(CallError, of=(SERVICE,)):
    """The interface does not have the `method`."""


class MethodNotImplemented(CallError, of=(SERVICE,)):
    """The `method` cannot be called in this way."""


class InvalidParameter(CallError, of=(SERVICE,)):
    """The `parameter` is missing, unknown or invalid."""


class PermissionDenied(CallError, of=(SERVICE,)):
    """The caller may not call the method."""


class ExpectedMore(CallError, of=(SERVICE,)):
    """The method has to be called with "more"."""


class NoSuchSession(SessionError, of=(SESSIONS, UPDATES), caught=errors.NoSuchSession, code=errno.ENOENT):
    """No session has this name, or it belongs to another user."""


class SessionExists(SessionError, of=(SESSIONS,), caught=errors.SessionExists, code=errno.EEXIST):
    """The name is in use. An fd of a session with this name that is open anywhere keeps it in use."""


class InvalidName(SessionError, of=(SESSIONS,), caught=errors.BadInput):
    """A name has 1 to 63 of A-Z a-z 0-9 . _ @ / # -, is not `systemd` and does not begin with `luod`. NAME#NUMBER
    needs a session NAME of the caller's user, and an update (WrongPhase).
    """


class WrongPhase(PhaseError, of=(SESSIONS,), caught=errors.WrongPhase):
    """NAME#NUMBER is created only while update NUMBER freezes, by a participant that has declared NAME.

    If that update is over, the event cancelled follows. Nothing was changed. `state` is luod's state.
    """


class NotExpected(PhaseError, of=(UPDATES,), name="WrongPhase"):
    """No such call is expected from this participant now. `state` is luod's."""


class NotFinished(SessionError, of=(SESSIONS,)):
    """Release said "finished", but the kernel still has the session's files: luod keeps its copy."""


class Busy(WireError, of=(SESSIONS,), caught=errors.Busy):
    """Not now: another process has /dev/liveupdate open, or an update is under way. Nothing was changed."""


class Torn(SessionError, of=(SESSIONS, UPDATES), caught=errors.Torn):
    """The session was carried by a kexec for which its participant was not `ready`: no guest may be resumed from it.

    It can be released, as given up.
    """


class Resumed(SessionError, of=(SESSIONS,), caught=errors.AlreadyResumed):
    """Its guest was resumed, and has changed the memory since: it cannot be resumed again.

    The session can be released.
    """


class LiveUpdateBroken(WireError, of=(SESSIONS,), caught=errors.LiveUpdateBroken, code=errno.EIO):
    """This kernel could not take over what was carried into it, since it lacks a handler: every open of /dev/liveupdate
    fails. Until the next boot no file can be retrieved, and no session created.
    """


class NoManifest(SessionError, of=(SESSIONS,), caught=errors.NoManifest):
    """The session's maker gave luod no duplicate of its manifest, or keeps no manifest.

    Or the session is incoming, and luod does not hold it: a session that waits in the kernel is not retrieved to be
    read.
    """


class NotASession(WireError, of=(SESSIONS,), caught=errors.BadInput):
    """The file is not a session of the Live Update Orchestrator."""


class AlreadyStashed(SessionError, of=(SESSIONS,), caught=errors.AlreadyStashed):
    """luod holds a set of files of this name for the caller's user."""


class NotStashed(SessionError, of=(SESSIONS,), caught=errors.NotStashed):
    """luod holds no files of this name for the caller's user."""


class NotFollowing(WireError, of=(UPDATES,)):
    """`participant` is not of a connection that follows (any more), or is another user's."""


class DeclaredByAnother(SessionError, of=(UPDATES,)):
    """Another participant, which still follows, has declared the session."""


class NotLoaded(WireError, of=(ADMIN,), caught=errors.NoImageLoaded, code=errno.EINVAL):
    """No kernel was loaded through luod, and luod starts no other."""


class NotAKernelImage(WireError, of=(ADMIN,), caught=errors.NotAKernelImage, code=errno.ENOEXEC):
    """The kernel does not accept the file as a kernel image. The previous image is still loaded."""


class UpdateRunning(WireError, of=(ADMIN,), caught=errors.Busy):
    """An update is under way. Only one can be at a time."""


class NoUpdate(WireError, of=(ADMIN,)):
    """No update is under way."""


class TooLate(WireError, of=(ADMIN,)):
    """reboot(2) is called: the update cannot be cancelled any more."""


class DiscardFailed(SessionError, of=(ADMIN,)):
    """The reaper failed, or was killed. The session is stuck: luod hands it to no process, and it blocks no other
    session.
    """


class NotCarriedOver(SessionError, of=(ADMIN,)):
    """The session holds a device or has no manifest, was changed by its guest, or does not fit the memory.

    Nothing was changed.
    """


class CarryOverFailed(SessionError, of=(ADMIN,)):
    """The carry-over was begun and not completed.

    Nothing is lost: luod holds the files, and the call can be repeated.
    """


class UpgradeFailed(WireError, of=(QEMU,), caught=errors.QemuError):
    """The other QEMU could not take the guest over. The guest is with the QEMU that it had.

    It goes on there, unless the message says that it stays paused.
    """


class GuestEnded(WireError, of=(QEMU,), caught=errors.GuestEnded):
    """No QEMU runs the guest any more. Its session is released."""


def on_the_wire(error: LuodError, interface: str) -> tuple[str, dict[str, Any]] | None:
    """Returns the name of an error that serve raised, as an answer of `interface`, and its parameters.

    Returns None when no interface declares such an error.
    """
    if isinstance(error, errors.LiveUpdateBusy):
        error = Busy(message=f"/dev/liveupdate: {error.meaning}", hint="try again")
    elif isinstance(error, errors.LiveUpdateBroken):
        error = LiveUpdateBroken(message=error.message, hint=error.hint)
    elif isinstance(error, errors.NotAKernelImage):
        error = NotAKernelImage(message=error.message, hint=error.hint)
    if isinstance(error, WireError):
        name = error.name if interface not in error.interfaces else f"{interface}.{error.name.rpartition('.')[2]}"
        return name, error.parameters
    parameters: dict[str, Any] = {"message": error.message, "hint": error.hint}
    if isinstance(error, errors.KernelRefused):
        parameters |= {"call": error.call, "errno": error.errno, "meaning": error.meaning}
    for kind, interfaces in SHARED.items():
        if isinstance(error, kind):
            return f"{interface if interface in interfaces else interfaces[0]}.{kind.__name__}", parameters
    return None


def from_the_wire(name: str, parameters: Mapping[str, Any]) -> LuodError:
    """Returns the typed error for the Varlink error `name`: a CallFailed with that name if there is no other.

    An error that the device itself can return has the device's type, so that a program catches the same with luod and
    without. Errors of Varlink itself (`org.varlink.service.*`) have no message.
    """
    short = name.rpartition(".")[2]
    message = str(parameters.get("message") or name)
    hint = str(parameters.get("hint") or "")
    kind, code = _CAUGHT.get(name, (errors.CallFailed, 0))
    if kind is errors.KernelRefused:
        return _kernel_refused(parameters, hint)
    if short == "InvalidParameter":
        message = f"luod does not take the parameter {parameters.get('parameter')}"
    elif short == "PermissionDenied":
        message = "luod does not allow this user to do that"
    elif short in ("MethodNotFound", "InterfaceNotFound"):
        message = f"this luod does not know {parameters.get('method') or parameters.get('interface')}"
        hint = "it may be older, or this socket may not be the admin socket"
    if issubclass(kind, errors.CallFailed):
        return kind(name, message, parameters, hint=hint)
    if issubclass(kind, errors.KernelRefused):
        return kind(code, "", message, hint=hint)
    return kind(message, hint=hint)


def _kernel_refused(parameters: Mapping[str, Any], hint: str) -> errors.KernelRefused:
    code, call, meaning = (parameters.get(member) for member in ("errno", "call", "meaning"))
    if type(code) is not int or not 0 < code < 4096:
        code = errno.EIO
    return errors.KernelRefused(code, str(call or ""), str(meaning or ""), hint=hint)
