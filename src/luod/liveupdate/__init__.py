"""`/dev/liveupdate` and session fds as objects that own their fd.

The system calls and what guards them; no daemon, and no policy about who may have which session: that is `luod.client`
and `luod.daemon`, which both call this. Behaviour is Linux 7.3's, measured; where a kernel of the document's differs,
the method says so.

A session is outgoing in the kernel it was created in, where files are preserved in it, and incoming in the next one,
where they are retrieved. The two share no verb and no name space, so they are two types.
"""

from luod.linux import HasFileno
from luod.liveupdate.device import LiveUpdate
from luod.liveupdate.incoming import IncomingSession
from luod.liveupdate.outgoing import OutgoingSession, unpreserve_available
from luod.liveupdate.ram import memory
from luod.liveupdate.session import NAME_MAX

__all__ = [  # noqa: RUF022 - from most to least important
    "LiveUpdate",
    "OutgoingSession",
    "IncomingSession",
    "memory",
    "unpreserve_available",
    "HasFileno",
    "NAME_MAX",
]
