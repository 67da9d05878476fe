"""`luoctl show`: what sessions carry, read here and not in luod, which is off the data path.

Nothing is changed by looking: the manifest of an outgoing session is what its maker gave luod, that of an incoming one
is read from luod's copy of the session. A session that waits in the kernel stays there, where it is safe (H6), so of
that only what luod knows is shown.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict, dataclass

from luod.client import Client, Description
from luod.ctl.exits import Exit
from luod.ctl.output import Output, escaped
from luod.errors import LuodError, NoManifest
from luod.manifest import Entry


@dataclass(frozen=True)
class Carried:
    """A session, and its files; `files` None where they are not known, and `note` says why, or what is missing."""

    session: Description
    files: tuple[Entry, ...] | None
    note: str | None = None


def show(arguments: Namespace, output: Output) -> Exit:
    """`luoctl show`: root's every session, a user's own."""
    client = Client(arguments.socket)
    for session in client.describe(arguments.session):
        carried = _carried(client, session)
        if output.json:
            files = None if carried.files is None else [asdict(file) for file in carried.files]
            output.object({**asdict(session), "files": files, "note": carried.note})
        else:
            _show(carried, output)
    return Exit.DONE


def _carried(client: Client, session: Description) -> Carried:
    try:
        files, all_of_it = client.manifest(session.name, direction=session.direction)
        return Carried(session, files, None if all_of_it else "there are more, which only its maker knows")
    except NoManifest as error:
        return Carried(session, None, f"{error.message}; {error.hint}")
    except LuodError as error:
        return Carried(session, None, f"its manifest cannot be read: {error.message}")


def _show(carried: Carried, output: Output) -> None:
    session = carried.session
    facts = [("session", session.name), ("owner", str(session.owner)), ("direction", session.direction)]
    facts += [("state", session.state)]
    if session.process is not None:
        facts += [("process", str(session.process))]
    if session.update is not None:
        facts += [("update", session.update)]
    if session.bytes:
        phases = f"preparing {session.preparing_seconds:.3f} s, freezing {session.freezing_seconds:.3f} s"
        facts += [("declared", f"{session.bytes} bytes"), *([("ready", phases)] if session.update else [])]
    facts += [("note", carried.note)] if carried.note else []
    output.facts([(name, escaped(value)) for name, value in facts])
    if carried.files is not None:
        rows = [
            (str(file.token), file.name or "", file.kind, str(file.size), str(file.allocated), file.device or "")
            for file in carried.files
        ]
        head = ("TOKEN", "NAME", "KIND", "SIZE", "ALLOCATED", "DEVICE")
        output.table(head, [[escaped(cell) for cell in row] for row in rows])
