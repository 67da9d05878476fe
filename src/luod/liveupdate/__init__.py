"""`/dev/liveupdate` and session fds as objects that own their fd.

The package has the system calls and their checks. It has no daemon, and no policy about the users of a session: those
are in `luod.client` and `luod.daemon`, which both use it. It follows linux/liveupdate.h and the measured behaviour of
Linux 7.3 (docs/kernel.md). A method says so where a kernel of the document differs.

A session is outgoing in the kernel that created it, where files are preserved in it. It is incoming in the next kernel,
where they are retrieved. The two have no ioctl in common but GET_NAME, and separate name spaces, so they are two types.

Each name is loaded from its module on first use (PEP 562): luod's supervisor needs only the device.
"""

from __future__ import annotations

from luod.static import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from luod.linux import HasFileno
    from luod.liveupdate.device import LiveUpdate
    from luod.liveupdate.incoming import IncomingSession
    from luod.liveupdate.outgoing import OutgoingSession, unpreserve_available
    from luod.liveupdate.ram import memory
    from luod.liveupdate.session import NAME_MAX

_HOMES: Final = {
    "LiveUpdate": "luod.liveupdate.device",
    "OutgoingSession": "luod.liveupdate.outgoing",
    "IncomingSession": "luod.liveupdate.incoming",
    "memory": "luod.liveupdate.ram",
    "unpreserve_available": "luod.liveupdate.outgoing",
    "HasFileno": "luod.linux",
    "NAME_MAX": "luod.liveupdate.session",
}

__all__ = [  # noqa: RUF022 - from most to least important
    "LiveUpdate",
    "OutgoingSession",
    "IncomingSession",
    "memory",
    "unpreserve_available",
    "HasFileno",
    "NAME_MAX",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
