"""`luoctl show`: reads manifests here, since luod is off the data path. Sessions are not changed.

The manifest of an outgoing session is the one that its creator gave luod. That of a retrieved session is read from
luod's fd of the session. A session that waits in the kernel is not retrieved (H6), so its manifest is not shown.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final

from luod.arguments import Parser
from luod.ctl.exits import Exit
from luod.ctl.output import Output, escaped, size
from luod.decode import encode
from luod.errors import LuodError, NoManifest

if TYPE_CHECKING:
    from luod.client import Client, Description
    from luod.manifest import Entry

SUMMARY = "show a session and its files"
DESCRIPTION = "Shows a session and, where its manifest is known, its files. Nothing is retrieved from the kernel."

Files = tuple["Entry", ...] | None
_NAME_MAX: Final = 40
"""Characters of a member of `about` as text: the values are aligned by the longest name."""


def arguments(parser: Parser) -> None:
    parser.add_argument("session", metavar="NAME", help="the session")


def run(given: Namespace, output: Output) -> Exit:
    from luod.client import Client

    client = Client(given.socket)
    for number, session in enumerate(client.describe(given.session)):
        files, about, note = _manifest(client, session)
        if output.json:
            members = None if files is None else [_members(file) for file in files]
            output.object({**encode(session), "files": members, "about": about, "note": note})
        else:
            if number:
                output.line("")
            _show(session, files, about, note, output)
    return Exit.DONE


def _manifest(client: Client, session: Description) -> tuple[Files, dict[str, Any], str | None]:
    """Returns the files, or None if they are not known, what its program says about it, and a note: the reason, or that
    there are more.
    """
    try:
        files, complete = client.manifest(session.name, direction=session.direction)
        about = client.about(session.name, direction=session.direction)
    except NoManifest as error:
        return None, {}, f"{error.message}; {error.hint}"
    except LuodError as error:
        return None, {}, f"the manifest cannot be read: {error.message}"
    if not _is_json(about):
        return files, {}, "what the program says about its workload is not JSON"
    return files, about, None if complete else "the manifest is incomplete: there are more files"


def _is_json(about: dict[str, Any]) -> bool:
    """Returns whether it can be written as JSON: Python reads infinite numbers, and other programs do not."""
    import json

    try:
        json.dumps(about, allow_nan=False)
    except ValueError:
        return False
    return True


def _named(member: str) -> str:
    """Returns the name for a member of `about`, which must not be taken for luod's own words."""
    name = f"about.{escaped(member)}"
    return name if len(name) <= _NAME_MAX else name[: _NAME_MAX - 1] + "…"


def _said(value: object) -> str:
    """Returns a value of `about` as text: a list of words as a command line, anything else as JSON."""
    import json
    import shlex

    match value:
        case str():
            return value
        case list() if all(isinstance(word, str) for word in value):
            return shlex.join(value)
    return json.dumps(value)


def _members(file: Entry) -> dict[str, Any]:
    """Returns a file for JSON. The token is also a string, since jq and JavaScript round integers above 2^53."""
    members = encode(file)
    return {"token": members.pop("token"), "token_str": str(file.token), **members}


def _show(session: Description, files: Files, about: dict[str, Any], note: str | None, output: Output) -> None:
    facts = [("session", session.name), ("owner", str(session.owner)), ("direction", session.direction)]
    facts += [("state", session.state)]
    if session.process is not None:
        facts += [("process", str(session.process))]
    if session.participant is not None:
        facts += [("participant", session.participant)]
    if session.update is not None:
        facts += [("update", session.update)]
    if session.bytes:
        phases = f"preparing {session.preparing_seconds:.3f} s, freezing {session.freezing_seconds:.3f} s"
        facts += [("declared", size(session.bytes)), *([("ready", phases)] if session.update else [])]
    facts += [("note", note)] if note else []
    facts += [(_named(name), _said(value)) for name, value in about.items()]
    output.facts([(name, escaped(value)) for name, value in facts])
    if files is not None:
        rows = [
            (str(file.token), file.name or "", file.kind, size(file.size), size(file.allocated), file.device or "")
            for file in files
        ]
        head = ("TOKEN", "NAME", "KIND", "SIZE", "ALLOCATED", "DEVICE")
        output.table(head, [[escaped(cell) for cell in row] for row in rows])
