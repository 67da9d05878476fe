"""Files that luod holds over a restart of a program, step by step and without I/O: Stash, Unstash, DropStash.

The exchanges are like those of `luod.ipc.client.sessions`. `luod.client` and `luod.aio` run and document them.
"""

from __future__ import annotations

from luod.errors import BadInput, DaemonUnreachable, LuodError, ProtocolError
from luod.ipc.client.sessions import Call
from luod.liveupdate.session import check_text
from luod.session_name import SessionName
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luod.ipc.client.sessions import Exchange
    from luod.ipc.framing import Reply
    from luod.linux import Fd, HasFileno

AT_ONCE: Final = 16
"""The maximum number of files in one Stash: that of one message."""


def stash(name: str, files: Mapping[str, HasFileno]) -> Exchange[None]:
    SessionName.parse(name)
    if not 1 <= len(files) <= AT_ONCE:
        raise BadInput(f"{len(files)} files at once", hint=f"1 to {AT_ONCE} go under one name")
    for label, file in files.items():
        check_text(label, "a file's name")
        try:
            if file.fileno() < 0:
                raise ValueError("it is closed")
        except ValueError as error:
            raise BadInput(f"the file {label!r} is not open: {error}") from error
    passed = [{"name": label, "file_fd": index} for index, label in enumerate(files)]
    yield Call("Stash", {"name": name, "files": passed}, fds=tuple(files.values()))


def unstash(name: str, *, keep: bool) -> Exchange[dict[str, Fd]]:
    SessionName.parse(name)
    reply = yield Call("Unstash", {"name": name})
    taken = _files(reply)
    try:
        if not keep:
            yield from _dropped(name)  # only now that they have arrived
    except BaseException:
        _close(taken)
        raise
    return taken


def _dropped(name: str) -> Exchange[None]:
    """Makes luod close its fds. Returns also if that is not known: after a lost answer the caller's may be the last."""
    try:
        yield Call("DropStash", {"name": name})
    except (DaemonUnreachable, ProtocolError):
        try:
            yield Call("DropStash", {"name": name})
        except LuodError:
            pass


def drop_stash(name: str) -> Exchange[None]:
    SessionName.parse(name)
    yield Call("DropStash", {"name": name})


def _files(reply: Reply) -> dict[str, Fd]:
    listed = reply.parameters.get("files")
    taken: dict[str, Fd] = {}
    try:
        for entry in listed if isinstance(listed, list) else ():
            label, index = (entry.get("name"), entry.get("file_fd")) if isinstance(entry, dict) else (0, 0)
            if not isinstance(label, str) or type(index) is not int or not 0 <= index < len(reply.fds):
                raise ProtocolError(f"luod returned an invalid file: {entry!r:.100}")
            if label in taken:
                raise ProtocolError(f"luod gives two files {label!r:.100}")
            taken[label] = reply.fds[index].duplicate()
    except BaseException:
        _close(taken)
        raise
    return taken


def _close(files: Mapping[str, Fd]) -> None:
    for file in files.values():
        file.close()
