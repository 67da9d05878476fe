"""`/dev/liveupdate` and session fds as objects that own their fd.

The system calls and what guards them; no daemon, and no policy about who may have which session: that is `luod.client`
and `luod.daemon`, which both call this. Behaviour is Linux 7.3's, measured; where a kernel of the document's differs,
the method says so.

A session is outgoing in the kernel it was created in, where files are preserved in it, and incoming in the next one,
where they are retrieved. The two share no verb and no name space, so they are two types.

Each name is loaded from its module when first used (PEP 562): luod's keeper needs the device and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

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
