"""A program's calls that create an outgoing session: Create and Replace, step by step and without I/O.

The exchanges are like those of `luod.ipc.client.sessions`. They are apart from them since a program whose guest waits
to be restored creates no session before.
"""

from __future__ import annotations

import os

from luod.errors import BadInput, ComesBackSealed, FilesMissing, LuodError
from luod.ipc.client.limits import Limits
from luod.ipc.client.sessions import MANY, OUTGOING, Call, named, release, results, seals
from luod.liveupdate.outgoing import OutgoingSession, new_manifest
from luod.liveupdate.session import check_token
from luod.manifest import RESERVED_TOKENS
from luod.session_name import SessionName
from luod.static import TYPE_CHECKING
from luod.uapi.memfd import F_SEAL_EXEC

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from luod.ipc.client.sessions import Exchange
    from luod.linux import Fd, HasFileno
    from luod.manifest import Entry


def create(name: str, path: str, *, manifest: bool) -> Exchange[OutgoingSession]:
    """Returns a new session. It asks luod, at its socket `path`, for memory limits that this process cannot read."""
    SessionName.parse(name)  # for a value that is not text luod would only drop the connection
    return (yield from made("Create", name, path, manifest=manifest))


def create_many(names: Iterable[str], path: str, *, manifest: bool) -> Exchange[dict[str, OutgoingSession | LuodError]]:
    """Returns each new session, or the error of `create`."""
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        SessionName.parse(name)
    found: dict[str, OutgoingSession | LuodError] = {}
    for at in range(0, len(wanted), MANY):
        some = wanted[at : at + MANY]
        firsts = {name: new_manifest() for name in some} if manifest else {}
        try:
            found |= yield from _created(some, path, firsts)
        except LuodError as error:
            found |= dict.fromkeys(some, error)
        finally:
            for first in firsts.values():
                first.close()
    return found


def _created(
    names: Sequence[str], path: str, manifests: dict[str, Fd]
) -> Exchange[dict[str, OutgoingSession | LuodError]]:
    """Returns the results of one call. Removes those manifests that are the sessions' now."""
    asked = [{"name": name} | ({"manifest_fd": index} if name in manifests else {}) for index, name in enumerate(names)]
    reply = yield Call("CreateMany", {"sessions": asked}, fds=tuple(manifests.values()))
    return results(
        reply, names, lambda name, fd: OutgoingSession(fd, manifest=manifests.pop(name, False), limits=Limits(path))
    )


def replace(
    name: str, session: OutgoingSession, files: Mapping[int, HasFileno], drop: Collection[int], path: str
) -> Exchange[OutgoingSession]:
    before = {entry.token: entry for entry in session.contents}
    _check_replacement(before, files, drop)
    manifest, about = session.has_manifest, session.about
    session.close()
    replacement = yield from made("Replace", name, path, manifest=manifest)
    try:
        for token, file in files.items():
            name_in_manifest = before[token].name if token in before else None
            replacement.preserve(file, token, name=name_in_manifest, allow_sealed=True)
        if about:
            replacement.annotate(about)
    except LuodError:
        replacement.close()
        # A partial session must not be carried, nor keep the name from the caller, who has all the files. If luod is
        # not reachable, the caller still gets the original refusal.
        try:
            yield from release(name, OUTGOING, finished=False)
        except LuodError:
            pass
        raise
    except BaseException:
        replacement.close()
        raise
    return replacement


def _check_replacement(before: Mapping[int, Entry], files: Mapping[int, HasFileno], drop: Collection[int]) -> None:
    """Raises the errors that can be predicted, before any change."""
    dropped, inodes = set(drop), dict[tuple[int, int], int]()
    if both := sorted(dropped & files.keys()):
        raise BadInput(f"tokens both in `files` and in `drop`: {both}")
    if unknown := sorted(dropped - before.keys()):
        raise BadInput(f"tokens in `drop` that the session does not hold: {unknown}")
    if missing := tuple(token for token in before if token not in files and token not in dropped):
        raise FilesMissing(f"these tokens would be lost: {', '.join(map(str, missing))}", tokens=missing)
    for token, file in files.items():
        check_token(token)
        if token in RESERVED_TOKENS:
            raise BadInput(f"token {token} is reserved for the manifest", hint="take another")
        try:
            status = os.fstat(file.fileno())
        except (OSError, ValueError) as error:
            raise BadInput(f"the file for token {token} is not open: {error}") from error
        if (other := inodes.setdefault((status.st_dev, status.st_ino), token)) != token:
            raise BadInput(f"tokens {other} and {token} are the same file")
        # The caller allowed this at its first preserve.
        if (seals(file) or 0) & ~(before[token].seals if token in before else 0) & F_SEAL_EXEC:
            raise ComesBackSealed(f"the file for token {token} has F_SEAL_EXEC, so it would come back immutable")


def made(method: str, name: str, path: str, *, manifest: bool) -> Exchange[OutgoingSession]:
    """Returns an outgoing session. luod gets a duplicate of its manifest, since files cannot be read from the session
    itself.
    """
    if not manifest:
        reply = yield Call(method, {"name": name})
        return named(name, OutgoingSession(reply.take("session_fd"), manifest=False, limits=Limits(path)))
    first = new_manifest()
    try:
        reply = yield Call(method, {"name": name, "manifest_fd": 0}, fds=(first,))
        session = OutgoingSession(reply.take("session_fd"), manifest=first, limits=Limits(path))
    except BaseException:
        first.close()
        raise
    return named(name, session)
