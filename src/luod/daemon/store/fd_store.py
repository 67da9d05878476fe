"""The fds that outlive serve: `luod` has a copy of each, by name, and passes it to the next serve.

The supervisor has the fd, then the row is written, then the client is answered: `create` and `store` keep this order,
since they write the row themselves, by `record`. The names are in `luod.daemon.store.fd_names`;
`luod.daemon.supervisor.protocol` has the messages between the two.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from luod.daemon.supervisor import protocol
from luod.errors import (
    KernelRefused,
    LiveUpdateBroken,
    LiveUpdateBusy,
    LuodError,
    NoSuchSession,
    ProtocolError,
    SessionExists,
    SessionTaken,
)
from luod.frozen import frozen
from luod.ipc import framing
from luod.linux import Fd

_CREATE_REFUSALS: dict[int, type[KernelRefused]] = {
    errno.EEXIST: SessionExists,
    errno.EBUSY: LiveUpdateBusy,
    errno.EIO: LiveUpdateBroken,
}
_RETRIEVE_REFUSALS: dict[int, type[KernelRefused]] = {
    errno.ENOENT: NoSuchSession,
    errno.EINVAL: SessionTaken,
    errno.EBUSY: LiveUpdateBusy,
    errno.EIO: LiveUpdateBroken,
}

_MOST_FILES = 16
"""The files in one message: fewer than the fds that the supervisor has to spare, so that they always fit."""
_CLOSING_SECONDS = 1.0
_CLOSING_PAUSE = 0.001
_CLOSING_PAUSE_LAST = 0.05
_CLOSED_SECONDS = 0.25
"""The longest wait for PID 1's close after a removal: a process of a client may have the session open, too."""


@frozen
class Copies:
    """PID 1's copies. `missing`: of how many fds it may have none, and the `fault`; 0 and "" if it has all. `size` is
    the number that it should have, 0 without an fd store, and `room` the number that it takes. `changes` is for
    `Counted`.
    """

    fault: str
    missing: int
    size: int
    room: int
    changes: int


@frozen
class Counted:
    """PID 1's answer: how many fds it has, and how many it takes. `changes` is that of `Copies` before the question."""

    stored: int
    room: int
    changes: int


class SupervisorGone(LuodError, ConnectionAbortedError):
    """The channel to the supervisor is closed: no fd can be held any more. serve ends, and a client's call ends with
    its connection, without an answer.
    """


class _Request:
    """One request to the supervisor. `answer` gets the session's fd if `opens`, otherwise None.

    `stores`: the name of the fd that goes with it, if that is not dropped meanwhile.
    """

    def __init__(
        self,
        words: Mapping[str, object],
        *,
        opens: bool = False,
        stores: str | None = None,
        refusals: Mapping[int, type[KernelRefused]] = MappingProxyType({}),
    ) -> None:
        self.words = words
        self.opens = opens
        self.stores = stores
        self._refusals = refusals
        self.answer: asyncio.Future[Fd | None] = asyncio.get_running_loop().create_future()
        self.said: Mapping[str, str] = MappingProxyType({})
        """The words of the answer."""

    @property
    def removes(self) -> bool:
        """Returns whether it makes the supervisor close an fd."""
        return "FDSTOREREMOVE" in self.words

    def fail(self, error: LuodError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def answered(self, said: Mapping[str, str], fd: Fd | None) -> None:
        self.said = said
        if code := int(said["ERRNO"]):
            refusal = self._refusals.get(code, KernelRefused)
            self.fail(refusal(code, said.get("CALL", ""), said.get("MEANING", ""), hint=said.get("HINT", "")))
        elif not self.answer.done():
            self.answer.set_result(fd)
        elif fd is not None:
            fd.close()


class FdStore(Mapping[str, Fd]):
    """serve's fds by the names of the supervisor's copies. Owns them and the channel until close(). Made inside a
    running loop.

    The store owns an fd that is read here. One is in it as long as the supervisor has its copy, or is about to have it.
    """

    def __init__(self, channel: socket.socket, fds: dict[str, Fd], lost: Callable[[], None]) -> None:
        """`fds` are those from the supervisor at the start. `lost` runs once when the supervisor is gone."""
        self._channel = channel
        self._fds = fds
        self._lost = lost
        self.before_request: Callable[[], None] = lambda: None
        """Writes what the registry has not written yet: the supervisor must not be ahead of it."""
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Request] = deque()
        self._sent: list[_Request] = []
        self._spares: list[Fd] = []
        self._blackout = False
        self._closing: dict[str, float] = {}
        """The sessions that PID 1 is about to close, by their fds' names, and until when that is awaited."""
        channel.setblocking(False)
        self._loop.add_reader(channel, self._readable)

    def __getitem__(self, name: str) -> Fd:
        return self._fds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fds)

    def __len__(self) -> int:
        return len(self._fds)

    def close(self) -> None:
        self._loop.remove_reader(self._channel)
        self._channel.close()
        for fd in (*self._fds.values(), *self._spares):
            fd.close()

    async def create(self, name: str, record: Callable[[], None] | None) -> Fd:
        """Creates a session; then `record` writes the row, and only then the session may be given to a client.

        An error of `record` ends the session. None: no client will have it. Raises SessionExists: EEXIST. Raises
        LiveUpdateBusy: another process had /dev/liveupdate open all the time. Raises LiveUpdateBroken: EIO, the kernel
        could not take over what was carried (docs/hazards.md, H20). Raises KernelRefused, of serve itself with EMFILE.
        """
        fd = await self._free("CREATE", name, opens=True)
        assert fd is not None
        self._put(protocol.OUTGOING + name, fd)
        await self._record(record, protocol.OUTGOING + name)
        return fd

    async def retrieve(self, name: str) -> Fd:
        """Retrieves a session. Its row exists: it came over the kexec.

        Raises NoSuchSession: ENOENT. Raises SessionTaken: EINVAL. Raises LiveUpdateBusy, LiveUpdateBroken as `create`.
        Raises KernelRefused.
        """
        fd = await self._ask(_Request({"RETRIEVE": name}, opens=True, refusals=_RETRIEVE_REFUSALS))
        assert fd is not None
        self._put(protocol.INCOMING + name, fd)
        return fd

    async def store(self, files: Mapping[str, Fd], record: Callable[[], None] | None = None) -> None:
        """Holds a duplicate of each file, in place of any under its name; then `record`, if given, writes the row.

        All or none: an error of `record` drops them. Raises KernelRefused: the supervisor has no room.
        """
        try:
            for name, file in files.items():
                self._put(name, file.duplicate())
            await self._ask(*(_Request({"FDSTORE": 1, "FDNAME": name}, stores=name) for name in files))
        except BaseException:
            await self.drop(*files)
            raise
        await self._record(record, *files)

    def store_soon(self, name: str, file: Fd, refused: Callable[[LuodError], None]) -> None:
        """Holds a file as `store`, without a wait for the supervisor, for a file whose loss does no harm to a session.

        `refused` gets the reason for which the supervisor does not have it.
        """
        self._put(name, file.duplicate())

        def copied(answer: asyncio.Future[Fd | None]) -> None:
            if isinstance(error := answer.exception(), LuodError):
                refused(error)

        request = _Request({"FDSTORE": 1, "FDNAME": name}, stores=name)
        request.answer.add_done_callback(copied)
        self._send(request)

    async def drop(self, *names: str, discard: Callable[[Fd], None] | None = None) -> None:
        """Closes the fds under these names, serve's and then the supervisor's. The row must be removed before.

        `discard` is for a file whose last close can take long: it gets serve's after the supervisor's is closed.
        """
        dropped = {name: self._fds.pop(name) for name in names if name in self._fds}
        if discard is None:
            for fd in dropped.values():
                fd.close()
        removals = {name: _removal(name) for name in dropped}
        try:
            await self._ask(*removals.values())
            now = self._loop.time()
            self._closing = {name: until for name, until in self._closing.items() if until > now}
            self._closing |= {
                name: now + _CLOSED_SECONDS for name, request in removals.items() if "CLOSING" in request.said
            }
        finally:
            if discard is not None:
                for fd in dropped.values():
                    discard(fd)

    def drop_soon(self, *names: str) -> None:
        """Closes as `drop`, without a wait for the supervisor, where nothing depends on the last close."""
        for name in names:
            if (fd := self._fds.pop(name, None)) is not None:
                fd.close()
                request = _removal(name)
                request.answer.add_done_callback(asyncio.Future.exception)  # the supervisor and its copy are gone
                self._send(request)

    async def open_elsewhere(self, name: str) -> bool:
        """Returns whether a process may have an outgoing session of this name open of which luod has no fd.

        The kernel refuses the name then (docs/hazards.md, H9). Also if it refuses the question for another reason, such
        as a lack of memory: then nothing is known, and the session may be there.
        """
        try:
            await self._free("PROBE", name)
        except KernelRefused:
            return True
        return False

    async def until_closed(self, name: str) -> None:
        """Waits until PID 1 has closed its copy of a session that was just dropped, by the name of its fd.

        As long as it is open, the kernel refuses the session's files in another session (docs/hazards.md, H9). Waits up
        to 0.25 s, since another process may have the session open. Returns at once if PID 1 had no copy.
        """
        deadline, pause = self._closing.pop(name, 0.0), _CLOSING_PAUSE
        while self._loop.time() < deadline and await self._exists(name, deadline):
            await asyncio.sleep(pause)
            pause = min(pause * 2, _CLOSING_PAUSE_LAST)

    async def _exists(self, name: str, deadline: float) -> bool:
        """Returns whether the session of a dropped fd exists in the kernel."""
        direction, _, session = name.partition(".")
        if direction + "." == protocol.OUTGOING:
            request = _Request({"PROBE": session}, refusals=_CREATE_REFUSALS)
        else:
            # It was retrieved, so this cannot retrieve it.
            request = _Request({"RETRIEVE": session}, opens=True, refusals=_RETRIEVE_REFUSALS)
        try:
            async with asyncio.timeout_at(deadline):
                await self._ask(request)
        except (SessionExists, SessionTaken):
            return True
        except (KernelRefused, TimeoutError):
            pass
        return False

    async def copies(self, counted: Counted | None = None) -> Copies:
        """Returns the state of PID 1's copies, as the supervisor knows it. `counted`: PID 1's answer, which the
        supervisor takes first.
        """
        words = {} if counted is None else {"STORED": counted.stored, "ROOM": counted.room, "CHANGES": counted.changes}
        request = _Request({"COPIES": 1, **words})
        await self._ask(request)
        said = request.said
        numbers = (int(said[word]) for word in ("MISSING", "SIZE", "ROOM", "CHANGES"))
        return Copies(said["FAULT"], *numbers)

    def blackout(self, *, lasts: bool) -> None:
        """Tells the supervisor whether guests are paused: it waits less for PID 1 meanwhile."""
        if lasts != self._blackout:
            self._blackout = lasts
            request = _Request({"BLACKOUT": int(lasts)})
            request.answer.add_done_callback(asyncio.Future.exception)  # the supervisor is gone, and serve ends
            self._send(request)

    async def ready(self) -> None:
        """Reports to the supervisor, and through it to its parent, that clients are answered."""
        await self._ask(_Request({"READY": 1}))

    def _put(self, name: str, fd: Fd) -> None:
        if name in self._fds:
            self._fds[name].close()
        self._fds[name] = fd

    async def _record(self, record: Callable[[], None] | None, *names: str) -> None:
        try:
            if record is not None:
                record()
        except BaseException:
            await self.drop(*names)
            raise

    async def _free(self, call: str, name: str, *, opens: bool = False) -> Fd | None:
        """Makes a call that needs a free name. Repeats it while PID 1 may be about to close its copy of a session of
        that name: it does so a moment after it has removed it from its store. Raises as `create`.
        """
        deadline, pause = self._loop.time() + _CLOSING_SECONDS, _CLOSING_PAUSE
        while True:
            request = _Request({call: name}, opens=opens, refusals=_CREATE_REFUSALS)
            try:
                return await self._ask(request)
            except SessionExists:
                if "CLOSING" not in request.said or self._loop.time() >= deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _CLOSING_PAUSE_LAST)

    async def _ask(self, *requests: _Request) -> Fd | None:
        """Waits for the answers to all. Returns the last one; raises the first error."""
        self._send(*requests)
        answer, failed = None, None
        for request in requests:
            try:
                answer = await request.answer
            except LuodError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return answer

    def _send(self, *requests: _Request) -> None:
        """Sends requests now, or, while the supervisor works on a message, all together after its answer."""
        self._queue.extend(requests)
        if self._sent or not self._queue:
            return
        try:
            self.before_request()
        except LuodError as error:
            self._fail(error)
            return
        fds: list[int] = []
        while self._queue and len(self._sent) < protocol.MOST_REQUESTS and len(fds) < _MOST_FILES:
            request = self._queue.popleft()
            if request.opens and not self._reserve(request):
                continue
            if request.stores is not None:
                if request.stores not in self._fds:
                    request.answered({"ERRNO": "0"}, None)  # it was dropped meanwhile
                    continue
                fds.append(self._fds[request.stores].fileno())
            self._sent.append(request)
        if not self._sent:
            return
        try:
            framing.send(self._channel, protocol.encode(*(request.words for request in self._sent)), fds)
        except OSError as error:
            # serve's fds are not the supervisor's any more: what was dropped here is still there.
            self._end(SupervisorGone(f"the supervisor cannot be asked: {error}"))

    def _reserve(self, request: _Request) -> bool:
        """Keeps an fd number free for the session. Returns False: no number is free, and the supervisor is not asked.

        A session for which there is no number would be lost on the way, and with it serve's view of the supervisor.
        """
        try:
            self._spares.append(Fd(os.dup(self._channel.fileno())))
        except OSError as error:
            request.fail(
                KernelRefused(
                    error.errno or errno.EMFILE,
                    "serve",
                    "luod has no free file descriptor",
                    hint="close connections to luod, or raise LimitNOFILE= of its unit or `ulimit -Hn`",
                )
            )
            return False
        return True

    def _readable(self) -> None:
        if self._spares:
            self._spares.pop().close()  # a message has one session at most
        try:
            message, received = framing.receive(self._channel)
        except (OSError, ProtocolError):
            message, received = b"", ()
        if not message:
            self._end(SupervisorGone("the supervisor has ended"))
            return
        answers = protocol.decode(message)
        if "ALL" in answers[0]:
            answers *= len(self._sent)
            # The supervisor did not read the message. A removal must not fail: serve has closed its fd already.
            self._queue.extendleft(reversed([request for request in self._sent if request.removes]))
        answered, self._sent = self._sent[: len(answers)], self._sent[len(answers) :]
        fds = iter(received)
        for request, said in zip(answered, answers, strict=True):
            if "ALL" in said and request.removes:
                continue
            request.answered(said, next(fds) if request.opens and said["ERRNO"] == "0" else None)
        if not self._sent:
            while self._spares:
                self._spares.pop().close()
            self._send()

    def _end(self, error: SupervisorGone) -> None:
        """Ends the work with the supervisor: serve ends, and the next one begins with the supervisor's fds."""
        self._loop.remove_reader(self._channel)
        self._fail(error)
        lost, self._lost = self._lost, lambda: None
        lost()

    def _fail(self, error: LuodError) -> None:
        """Fails every request that is not answered."""
        requests = [*self._sent, *self._queue]
        self._sent.clear()
        self._queue.clear()
        for request in requests:
            request.fail(error)


def _removal(name: str) -> _Request:
    return _Request({"FDSTOREREMOVE": 1, "FDNAME": name})
