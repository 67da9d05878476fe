"""`python -m luod.daemon.cleanup.reaper_start COMMAND…` becomes the reaper COMMAND, once it may begin
(`luod.daemon.cleanup.worker`).

It reads the session's manifest for the command, which takes ioctls and so is not for serve. The command's environment
has LUOD_SESSION_FD (a number), LUOD_SESSION (the name), LUOD_OWNER (a uid) and LUOD_MANIFEST (JSON, docs/hooks.md), if
the manifest can be read and is not too long for an environment.
"""

from __future__ import annotations

import json
import os
import sys

from luod.daemon.cleanup.worker import SESSION_FD, admitted
from luod.daemon.processes import gate
from luod.decode import encode
from luod.errors import LuodError
from luod.linux import Fd
from luod.liveupdate import IncomingSession
from luod.static import Final

_MOST_BYTES: Final = 96 * 1024


def main() -> int:
    if not admitted():
        return 1
    number = int(os.environ[SESSION_FD])
    os.set_inheritable(number, True)
    try:
        with IncomingSession(Fd(os.dup(number))) as session:
            contents = session.contents
    except LuodError as error:
        print(f"luod: no manifest for the reaper: {error}", file=sys.stderr)
        contents = None
    if contents is not None:
        manifest = json.dumps(contents, default=encode, separators=(",", ":"))
        if len(manifest) <= _MOST_BYTES:
            os.environ["LUOD_MANIFEST"] = manifest
    return gate.become(sys.argv[1:], sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
