"""`luoctl inspect`: what sessions carry, read here and not in luod, which is off the data path.

An outgoing session's manifest is what its maker gave luod. An incoming one's is read from the session, if somebody has
it already: one that waits in the kernel is safe there, and would not be once it is taken out to be looked at (H6).
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict, dataclass

from luod.client import Client, Session, connect
from luod.ctl.exits import Exit
from luod.ctl.output import Output, escaped
from luod.errors import LuodError, NoManifest, NoSuchSession
from luod.manifest import Entry

_NOTES = {
    "waiting": "it waits in the kernel, safe; luod does not take it out to look",
    "torn": "it is not handed out, so nobody looks into it",
    "resumed": "its guest runs, and it is handed out no more",
}


@dataclass(frozen=True)
class Carried:
    """A session, and its files; `files` None where they are not known, and `note` says why, or what is missing."""

    session: Session
    files: tuple[Entry, ...] | None
    note: str | None = None


def inspect(arguments: Namespace, output: Output) -> Exit:
    """`luoctl inspect`: root's every session, a user's own."""
    client = connect(arguments.socket)
    found = [session for session in client.sessions() if session.name == arguments.session]
    if not found:
        raise NoSuchSession(2, "luod", f"there is no session {arguments.session!r} of yours")
    for session in found:
        carried = _carried(client, session)
        if output.json:
            files = None if carried.files is None else [asdict(file) for file in carried.files]
            output.object({**asdict(session), "files": files, "note": carried.note})
        else:
            _show(carried, output)
    return Exit.DONE


def _carried(client: Client, session: Session) -> Carried:
    try:
        if session.direction == "outgoing":
            files, all_of_it = client.manifest(session.name)
            return Carried(session, files, None if all_of_it else "there are more, which only its maker knows")
        if session.state != "retrieved":
            return Carried(session, None, _NOTES.get(session.state, f"it is {session.state}"))
        with client.retrieve(session.name) as incoming:
            contents = incoming.contents
        return Carried(session, contents, None if contents is not None else "it is finished, or has no manifest")
    except NoManifest as error:
        return Carried(session, None, error.message)
    except LuodError as error:
        return Carried(session, None, f"its manifest cannot be read: {error.message}")


def _show(carried: Carried, output: Output) -> None:
    session = carried.session
    facts = [("session", session.name), ("owner", str(session.owner)), ("direction", session.direction)]
    facts += [("state", session.state), *([("note", carried.note)] if carried.note else [])]
    output.facts([(name, escaped(value)) for name, value in facts])
    if carried.files is not None:
        rows = [
            (str(file.token), file.name or "", file.kind, str(file.size), str(file.allocated), file.device or "")
            for file in carried.files
        ]
        head = ("TOKEN", "NAME", "KIND", "SIZE", "ALLOCATED", "DEVICE")
        output.table(head, [[escaped(cell) for cell in row] for row in rows])
