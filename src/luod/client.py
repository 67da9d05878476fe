"""The blocking client of luod: `luod.Client`, and the sessions that it returns.

It uses a socket and the standard library, without a loop or a thread, since VMMs fork. Every call has a connection of
its own: no connection stays open that a forked child could disturb, and a restarted luod is found again.
`luod.ipc.client.sessions` has the calls and the checks of their answers, `luod.ipc.client.connection` the socket, and
`luod.aio` the same for asyncio. Preserving, retrieving and all other work on a session's files is done with the session
itself, in this process.
"""

from __future__ import annotations

from luod.errors import LuodError
from luod.ipc.client import restore, sessions
from luod.ipc.client.connection import LOOK_PAUSE, Connection, is_absent, perform, retried
from luod.ipc.client.handle import ClientBase, IncomingHandle, OutgoingHandle
from luod.ipc.client.restore import RestoredFiles
from luod.ipc.client.sessions import OUTGOING
from luod.ipc.types.sessions import Description, SessionInfo
from luod.manifest import MANIFEST_TOKEN
from luod.static import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from types import TracebackType

    from luod.ipc.client.sessions import Exchange, T
    from luod.linux import Fd
    from luod.liveupdate import HasFileno, IncomingSession, OutgoingSession
    from luod.manifest import Entry

__all__ = [  # noqa: RUF022 - most important first
    "Client",
    "HeldOutgoingSession",
    "HeldIncomingSession",
    "Restored",
    "SessionInfo",
    "Description",
]


class Client(ClientBase):
    """luod, for a program whose sessions it keeps. It may be used after a fork.

    `with` waits up to `patience` seconds for a luod that starts later than this program, and raises DaemonUnreachable
    if none came. At its end it closes what the client still holds, see `close`. It is not needed otherwise: no socket
    is open between calls.

    Every method may raise DaemonUnreachable (no process listens, luod died meanwhile, or `timeout` seconds passed),
    ProtocolError (an answer that is not luod's), Busy (luod cannot do it now) and CallFailed (luod declines, `name` is
    the reason). Errors of the kernel have the types that `luod.LiveUpdate` raises. After DaemonUnreachable it is not
    known whether luod executed the call; `sessions()` shows it.
    """

    def create(self, name: str, *, manifest: bool = True) -> HeldOutgoingSession:
        """Returns a new session for files to preserve; the caller owns it.

        luod keeps an fd of its own until `release` of the session, so that it lives until the kexec even if this
        process ends. `manifest=False` is for programs that keep no list of tokens in the session (see OutgoingSession).

        Raises BadInput: luod accepts names of 1 to 63 characters of `A-Z a-z 0-9 . _ @ / # -`, except those that it
        reserves. Raises SessionExists (EEXIST): an fd of an outgoing session with this name is open; if it is of an
        earlier VMM process, `discard` releases it. Raises KernelRefused: any other errno of the kernel.
        """
        from luod.ipc.client import creation  # not loaded by a program whose guest waits to be restored

        return HeldOutgoingSession(self, name, self._run(creation.create(name, self.path, manifest=manifest)))

    def create_many(self, names: Iterable[str], *, manifest: bool = True) -> dict[str, HeldOutgoingSession | LuodError]:
        """Creates many sessions with few calls. Returns each, or the error that `create` would have raised for it.

        One that fails does not affect the others: they are of different guests. The caller owns the sessions. Raises
        BadInput, and nothing was created.
        """
        from luod.ipc.client import creation

        found = self._run(creation.create_many(names, self.path, manifest=manifest))
        return {
            name: made if isinstance(made, LuodError) else HeldOutgoingSession(self, name, made)
            for name, made in found.items()
        }

    def retrieve_many(self, names: Iterable[str]) -> dict[str, HeldIncomingSession | LuodError]:
        """Retrieves many sessions with few calls. Returns each, or the error that `retrieve` would have raised for it.

        One that fails does not affect the others, as in `create_many`. Sixteen are retrieved by one call: if both
        processes of luod are killed during it, those are lost. Raises BadInput, and nothing was retrieved.
        """
        found = self._run(sessions.retrieve_many(names, self.path))
        return {
            name: made if isinstance(made, LuodError) else HeldIncomingSession(self, name, made)
            for name, made in found.items()
        }

    def retrieve(self, name: str) -> HeldIncomingSession:
        """Returns the incoming session `name`; the caller owns it.

        `restore` is for workloads that took part in an update. Repeated, by a restarted VMM, it returns the same
        session; every file can be retrieved from it again until it is finished.

        Raises BadInput: no session can have this name. Raises NoSuchSession (ENOENT): it was not preserved, or is
        finished, or belongs to another user. Raises Torn, AlreadyResumed, KernelRefused.
        """
        return HeldIncomingSession(self, name, self._run(sessions.retrieve(name, self.path)))

    def restore(self, name: str) -> Restored | None:
        """Returns everything that the workload `name` took over the last kexec, which the caller owns; None if there is
        nothing.

        That is its session NAME and, if it took part in the update (`luod.Participant`), NAME#GENERATION, which it
        wrote while it was frozen. Repeated before `Restored.resume`, it returns both again.

        Raises Torn: the workload was not ready at the kexec, so its guest cannot be resumed. Raises AlreadyResumed: its
        guest has run since. After either, `discard` it, and start the guest from the beginning. Raises Busy: the
        operator carried it over, so it can be restored in the next kernel only. Raises the errors of `retrieve`.

        If luod ends between the two sessions, the client keeps the first for the next call of this method: keep the
        client, since closing the session might lose its files.
        """
        arrived = self._run(restore.restore(name, self._begun, self.path))
        if arrived is None:
            return None
        frozen = None if arrived.frozen is None else HeldIncomingSession(self, *arrived.frozen)
        return Restored(self, name, HeldIncomingSession(self, name, arrived.running), frozen)

    def discard(self, name: str) -> tuple[str, ...]:
        """Releases all sessions of the workload `name`, and returns their names; () without any.

        Unretrieved files of the last kexec are lost. Files that are preserved for the next one are preserved no longer.

        Raises Refused: a participant still answers for them, so another process of this workload lives. Raises
        BadInput: the name.
        """
        return self._run(restore.discard(name, self._begun))

    def adopt(self, session: int | HasFileno) -> HeldOutgoingSession | HeldIncomingSession:
        """Has luod hold a session that this program created or retrieved by itself, at /dev/liveupdate.

        `session` is an fd of it, or its `luod.liveupdate` object, which the caller still owns. From then on the session
        belongs to this user in luod, and lives until the kexec even if this process ends. It is finished, released and
        declared by a participant as one that luod created. The returned handle has a duplicate of its own, and keeps no
        manifest. It can be repeated.

        Raises BadInput: `session` is no session, or has a name that luod does not take (see `create`). Raises
        SessionExists (EEXIST): luod holds a session of this name for another user. Raises Refused: the policy. Raises
        Torn, AlreadyResumed: its guest must not be resumed. Raises KernelRefused.
        """
        from luod.ipc.client import adoption
        from luod.liveupdate import incoming

        name, made = self._run(adoption.adopt(session, self.path))
        if isinstance(made, incoming.IncomingSession):
            return HeldIncomingSession(self, name, made)
        return HeldOutgoingSession(self, name, made)

    def sessions(self) -> tuple[SessionInfo, ...]:
        """Returns this user's sessions, by name; for root all users'."""
        return self._run(sessions.sessions())

    def manifest(self, name: str, *, direction: str = "outgoing") -> tuple[tuple[Entry, ...], bool]:
        """Returns the present files of the session `name`, from its manifest, and whether the list is complete.

        It is complete up to some 600 files. The call changes nothing and retrieves nothing: this process does not
        become the holder of the session. Raises NoManifest, also for an incoming session that waits in the kernel.
        Raises NoSuchSession, ManifestError.
        """
        return self._run(sessions.manifest(name, direction))

    def about(self, name: str, *, direction: str = "outgoing") -> dict[str, Any]:
        """Returns what the program of the session `name` said about its workload by `annotate`; {} without any.

        As `manifest`, it changes nothing, and raises the same errors.
        """
        return self._run(sessions.about(name, direction))

    def describe(self, name: str) -> tuple[Description, ...]:
        """Returns luod's knowledge of the sessions of the workload `name`, outgoing and incoming. Changes nothing.

        Raises NoSuchSession.
        """
        return self._run(sessions.describe(name))

    def stash(self, name: str, files: Mapping[str, HasFileno]) -> None:
        """Has luod hold files, by names of their own, over a restart of this program without a kexec.

        The files are memfds and devices, up to 16. They stay open here too, and the caller owns them. A session cannot
        do this, since files cannot be retrieved from an outgoing one. No kernel preserves them. luod refuses an update
        while there are any.

        Raises AlreadyStashed. Raises Refused: too many of this user, or neither memory nor a device. Raises BadInput,
        Busy.
        """
        from luod.ipc.client import held_files

        self._run(held_files.stash(name, files))

    def unstash(self, name: str, *, keep: bool = False) -> dict[str, Fd]:
        """Returns the files that a process of this user stashed under `name`; the caller owns them.

        luod closes its own fds once the files arrived; if it cannot be reached for that, the files are returned, and
        `drop_stash` repeats it. A process that is interrupted meanwhile, as by KeyboardInterrupt, may lose the files.
        With `keep` luod holds them until `drop_stash`, for another process after a crash. Raises NotStashed.
        """
        from luod.ipc.client import held_files

        return self._run(held_files.unstash(name, keep=keep))

    def drop_stash(self, name: str) -> None:
        """Makes luod close the files that it holds under `name`. Raises NotStashed."""
        from luod.ipc.client import held_files

        self._run(held_files.drop_stash(name))

    def __enter__(self) -> Self:
        with retried(lambda: Connection(self.path, timeout=self.timeout), is_absent, self.patience, LOOK_PAUSE):
            return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, steps: Exchange[T]) -> T:
        return perform(steps, self.path, self.timeout)


class HeldOutgoingSession(OutgoingHandle):
    """A session for the next kernel, which luod holds too.

    Its methods may raise the errors of every method of `Client`.
    """

    def __init__(self, client: Client, name: str, bare: OutgoingSession) -> None:
        """Takes ownership of `bare`, which the luod of `client` gave."""
        super().__init__(name, bare)
        self._client = client

    def preserve(
        self,
        file: int | HasFileno,
        token: int | None = None,
        *,
        name: str | None = None,
        allow_sealed: bool = False,
        check_memory: bool = True,
        device: str | None = None,
    ) -> int:
        """Preserves a file and returns its token, as `luod.liveupdate.OutgoingSession.preserve`, with its rules and
        errors.
        """
        return self._bare.preserve(
            file, token, name=name, allow_sealed=allow_sealed, check_memory=check_memory, device=device
        )

    def annotate(self, about: Mapping[str, Any]) -> None:
        """Stores what the program says about its workload: `luod.liveupdate.OutgoingSession.annotate`."""
        self._bare.annotate(about)

    def unpreserve(self, token: int) -> None:
        """Stops preserving the file under `token`: `luod.liveupdate.OutgoingSession.unpreserve`."""
        self._bare.unpreserve(token)

    def replace(self, files: Mapping[int, HasFileno], *, drop: Collection[int] = ()) -> None:
        """Replaces the session by a new one of its name: without a file, if the kernel has no UNPRESERVE_FD, or with
        another one.

        This object is the new session afterwards. `files` are preserved in order under their tokens, with their names
        from the manifest; the caller owns their fds. `drop` are the tokens that are preserved no longer.

        Raises, before any change: FilesMissing, with preserved tokens that are in neither; BadInput (a file that is not
        open or is there twice; a token in both, or in `drop` and not preserved); ComesBackSealed.

        From then on the old session is gone, and until this returns nothing is preserved: **the session is lost if this
        process or luod dies in between, or if the machine does a kexec**. When a file is refused (errors of `preserve`)
        luod drops the new session too, and the name is free: the caller still has its files, and creates the session.
        Raises SessionExists (EEXIST): another fd of the old session is open somewhere, and luod has closed its own;
        close that fd and repeat the call, or `release` the session.
        """
        from luod.ipc.client import creation

        self._bare = self._client._run(creation.replace(self._name, self._bare, files, drop, self._client.path))

    def release(self) -> None:
        """Closes this fd of the session, and makes luod close its own.

        With the last fd its files are preserved no longer, and can be preserved in another session; its name is free.
        It works after `close`, too, and can be repeated after an error, with which luod still holds the session. Raises
        NoSuchSession: luod does not have it, so it is released.
        """
        self.close()  # first: luod waits until the session is gone
        self._client._run(sessions.release(self._name, OUTGOING, finished=False))


class HeldIncomingSession(IncomingHandle):
    """A session of the previous kernel, which luod holds too. Its methods may raise the errors of every method of
    `Client`.
    """

    def __init__(self, client: Client, name: str, bare: IncomingSession) -> None:
        """Takes ownership of `bare`, which the luod of `client` gave."""
        super().__init__(name, bare)
        self._client = client

    def retrieve(
        self,
        file: int | str | None = None,
        *,
        name: str | None = None,
        size: int | None = None,
        check_memory: bool = True,
        check_driver: bool = True,
    ) -> Fd:
        """Returns the fd of a file by its token, or its name in the manifest; the caller owns the fd.

        See `luod.liveupdate.IncomingSession.retrieve`, which has the rules and the errors.
        """
        return self._bare.retrieve(file, name=name, size=size, check_memory=check_memory, check_driver=check_driver)

    def unretrieved(self, tokens: Iterable[int] | None = None) -> tuple[int, ...]:
        """Returns the tokens that `finish` would drop: `luod.liveupdate.IncomingSession.unretrieved`."""
        return self._bare.unretrieved(tokens)

    def holds(self, token: int = MANIFEST_TOKEN) -> bool:
        """Returns whether the kernel still has the file under `token`: `luod.liveupdate.IncomingSession.holds`."""
        return self._bare.holds(token)

    def finish(self, *, discard: bool = False, tokens: Iterable[int] | None = None) -> None:
        """Finishes the session in the kernel, has luod close its fd, and closes this one. Idempotent.

        The checks and errors are those of `luod.liveupdate.IncomingSession.finish`. If luod cannot be reached, the
        session is finished in the kernel and stays open here: repeat the call.
        """
        self._client._run(sessions.finish(self, discard=discard, tokens=tokens))

    def discard(self) -> None:
        """Discards the session: luod closes its fd, and this one is closed. Idempotent.

        Unretrieved files are lost. The caller keeps the retrieved ones.
        """
        self._client._run(sessions.discard(self))


class Restored(RestoredFiles[HeldIncomingSession]):
    """The state of a workload from the previous kernel, see `Client.restore`.

    `restored["ram"]` retrieves the file named ram, `"ram" in restored` tests for it, and iteration yields the names.
    `with` closes it at the end: luod keeps unfinished sessions.
    """

    def __init__(
        self, client: Client, name: str, running: HeldIncomingSession, frozen: HeldIncomingSession | None
    ) -> None:
        super().__init__(name, running, frozen)
        self._client = client

    def retrieve(self, name: str, *, check_memory: bool = True, check_driver: bool = True) -> Fd:
        """Returns the fd of the file with this name in a manifest of either session, the frozen one first; the caller
        owns it.

        See `luod.liveupdate.IncomingSession.retrieve`. Raises BadInput: no manifest has such a file.
        """
        return self._session_of(name).retrieve(name, check_memory=check_memory, check_driver=check_driver)

    def __getitem__(self, name: str) -> Fd:
        """Returns `retrieve(name)`: the caller owns the fd. Repeated, it returns another fd of the same file."""
        return self.retrieve(name)

    def resume(self) -> None:
        """Records that the guest resumes. Call it before the guest's first instruction.

        It cannot be resumed a second time, since the guest changes the memory to which its frozen state belongs. luod
        does not hand the sessions out any more. Raises AlreadyResumed: a process did so before. Raises Torn. Raises
        NoSuchSession: luod does not have them any more. Raises Refused. Raises DaemonUnreachable: luod did not answer
        twice; the guest has not resumed, and this process can call it again.
        """
        self._client._run(restore.resume(self))

    def finish(self) -> None:
        """Finishes both sessions, in the kernel and in luod, and closes them. Idempotent.

        Raises NotRetrieved, ContentsUnknown, ManifestError: files would be dropped; nothing was finished. Raises
        FinishRefused. If luod cannot be reached, repeat the call.
        """
        self._client._run(restore.finish(self.sessions))

    def discard(self) -> None:
        """Discards both sessions, and closes them. Idempotent.

        Unretrieved files are lost. The caller keeps the retrieved ones.
        """
        self._client._run(restore.discard_all(self.sessions))
