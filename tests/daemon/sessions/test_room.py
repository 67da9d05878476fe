"""A serve that has no room for one more file: the call fails that needed it, and nothing else does."""

from __future__ import annotations

from tests.daemon.host import Luod, until_complete
from tests.daemon.participant import start

LIMIT = """
import resource, sys
pid, limit = map(int, sys.argv[1:])
_, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
"""
CREATE = "io.luod.Sessions.Create"


def leave_room(luod: Luod, serve: int, files: int) -> None:
    """Limits serve to `files` more open files."""
    used = {int(name) for name in luod.machine.run(["ls", f"/proc/{serve}/fd"]).text.split()}
    limit = 0
    while len(set(range(limit)) - used) < files:
        limit += 1
    luod.machine.run([luod.python().executable, "-c", LIMIT, str(serve), str(limit)])


def test_a_session_for_which_there_is_no_room_is_refused_and_nobody_notices(luod: Luod) -> None:
    """It was asked of the supervisor before, got lost on the way, and serve took that for dead."""
    until_complete(luod)
    vmm, serve = start(luod), luod.serve_pid()
    vmm.call("more", slot="follow", method="io.luod.Updates.Follow", parameters={"name": "one"})
    # The connection, its pidfd, and none for the session.
    leave_room(luod, serve, 2)
    refused = vmm.refused("method", method=CREATE, parameters={"name": "vm", "manifest_fd": None})
    assert (refused.kind, refused.errno) == ("KernelRefused", "EMFILE")
    leave_room(luod, serve, 64)
    assert luod.serve_pid() == serve
    assert luod.status()["participants"] == 1
    vmm.call("create", name="vm", slot="vm")
