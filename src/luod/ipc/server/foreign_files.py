"""Keeps clients' files out of serve: disposable processes receive them, and make every last close that can block.

`ForeignFiles` has one `luod.ipc.server.receiver` for each user that passes files, started on demand, and one for all
users that only closes files from serve. A receiver that does not answer is killed and replaced. One that cannot be
killed counts against its user; beyond a few, messages of that user with fds are refused. Messages without fds never
come here. `luod.ipc.server.receiver` describes the channel between the two.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable

from luod.frozen import frozen
from luod.ipc.server import receiver
from luod.ipc.server.closer import Closer
from luod.ipc.server.received import Budget, Received
from luod.ipc.server.receiver_process import CLOSE_SECONDS, START_SECONDS, Process
from luod.ipc.server.sparing import Sparing
from luod.linux import Fd
from luod.static import Final

ANSWER_SECONDS: Final = 5.0
"""The time limit of a running receiver's answer: receiving does not block, so this is for a slow machine."""
IDLE_SECONDS: Final = 5.0
EVICTED_SECONDS: Final = 2.0
"""The time after which an idle receiver ends because another user needs one; starting one costs processor time."""
OF_USER: Final = 2
"""The maximum number of one user's receivers that cannot be killed."""
OF_ALL: Final = 32
"""The maximum number of receivers of all users except root, including those that cannot be killed.

A quarter is reserved, as for connections.
"""


@frozen
class Arrived:
    """The received bytes, and their files, which the taker closes."""

    data: bytes
    files: tuple[Received, ...]

    def close(self) -> None:
        for file in self.files:
            file.close()


ASK_AGAIN: Final = "nothing was done; call again over a new connection"
FINISH_CALLS: Final = (
    "finish the calls that wait, or raise RLIMIT_NOFILE of luod (LimitNOFILE=); calls without fds are answered"
)
END_HOLDERS: Final = "end the processes that hold or serve these files; calls without fds are answered"


@frozen
class Failed:
    """The files of a message were not received, so nothing of the message is done. `hint` has the remedy."""

    reason: str
    hint: str = ASK_AGAIN


class Request:
    """A connection that waits for its receiver. `done` runs once, unless `cancel` was used before."""

    def __init__(
        self, connection: socket.socket, size: int, most_fds: int, done: Callable[[Arrived | Failed], None]
    ) -> None:
        self.connection: Final = connection
        self.size: Final = size
        self.most_fds: Final = most_fds
        self.done: Callable[[Arrived | Failed], None] | None = done

    def cancel(self) -> None:
        self.done = None

    def finish(self, outcome: Arrived | Failed) -> bool:
        """Returns whether the outcome was taken."""
        done, self.done = self.done, None
        if done is not None:
            done(outcome)
        return done is not None


class _User:
    def __init__(self, uid: int) -> None:
        self.uid: Final = uid
        self.named = False
        self.process: Process | None = None
        self.waiting: deque[Request] = deque()
        self.request: Request | None = None
        """The request that the process has not answered."""
        self.busy = False
        """The process has not confirmed that it closed the files of its last request."""
        self.rests_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.hung: set[Process] = set()
        """Processes that were killed and are not dead."""

    def set_timer(self, timer: asyncio.TimerHandle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer


class ForeignFiles:
    """All receivers. Made inside a running loop."""

    def __init__(self, sparing: Sparing, *, stays: Callable[[int], bool] = lambda uid: False) -> None:
        """`stays` returns whether the receiver of a uid is to stay when it is idle."""
        self._sparing = sparing
        self._budget = Budget()
        self._stays = stays
        self._loop = asyncio.get_running_loop()
        self._users: dict[int, _User] = {}
        """The users with a process or a request, in the order of their last use."""
        self._closer = Closer(sparing)
        self.begin: Final = self._closer.begin
        self.finish: Final = self._closer.finish
        self.discard: Final = self._closer.discard
        self._ending: set[Process] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False

    # Receiving.

    def receive(
        self,
        connection: socket.socket,
        uid: int,
        *,
        named: bool,
        size: int,
        most_fds: int,
        done: Callable[[Arrived | Failed], None],
    ) -> Request:
        """Has up to `size` bytes of a connection received, of which the first carry fds. Nothing may read it until
        `done`.
        """
        request = Request(connection, size, most_fds, done)
        user = self._user(uid, named)
        user.waiting.append(request)
        self._loop.call_soon(self._serve, user)
        return request

    def warm(self, uid: int, *, named: bool) -> None:
        """Starts the receiver of a user that will pass files when there is no time to start one."""
        user = self._user(uid, named)
        if user.process is None and self._refusal(user) is None and self._room(user):
            self._start(user)
        self._forget(user)

    def _user(self, uid: int, named: bool) -> _User:
        user = self._users.pop(uid, None) or _User(uid)
        self._users[uid] = user
        user.named = named
        return user

    def _serve(self, user: _User) -> None:
        """Gives the user's process the next request, if it can take one."""
        self._give(user)
        self._forget(user)

    def _give(self, user: _User) -> None:
        while user.waiting and not user.busy and not self._closed:
            if user.process is None:
                if (refusal := self._refusal(user)) is not None:
                    self._fail_waiting(user, Failed(refusal, END_HOLDERS))
                    return
                if not self._room(user):
                    if self._retry is None:
                        self._retry = self._loop.call_later(EVICTED_SECONDS, self._try_again)
                    return
                if not self._start(user):
                    self._fail_waiting(user, Failed("luod could not start a process for its files"))
                    return
            assert user.process is not None
            request = user.waiting.popleft()
            if request.done is None:
                continue
            if (refusal := self._budget.refusal(user.uid, named=user.named, most=request.most_fds)) is not None:
                request.finish(Failed(refusal, FINISH_CALLS))
                continue
            message = receiver.REQUEST.pack(b"R", request.size, request.most_fds, user.uid == 0)
            try:
                user.process.send(message, (request.connection.fileno(),))
            except OSError as error:
                # ETOOMANYREFS: sockets nested too deeply. EPIPE: it has just ended.
                request.finish(Failed(f"its files cannot be received: {os.strerror(error.errno or 0)}"))
                continue
            user.request, user.busy = request, True
            seconds = ANSWER_SECONDS if user.process.answered else START_SECONDS
            user.set_timer(self._loop.call_later(seconds, self._late, user))

    def _try_again(self) -> None:
        self._retry = None
        self._serve_all()

    @staticmethod
    def _fail_waiting(user: _User, failed: Failed) -> None:
        waiting, user.waiting = user.waiting, deque()
        for request in waiting:
            request.finish(failed)

    def _refusal(self, user: _User) -> str | None:
        """Returns why no receiver is started for the user, as text, or None."""
        if user.uid == 0:
            return None
        if len(user.hung) >= OF_USER:
            return f"{len(user.hung)} processes of luod cannot end because of files that uid {user.uid} passed"
        if sum(len(other.hung) for other in self._users.values() if other.uid) >= self._most(user):
            return "too many processes of luod cannot end because of files that users passed"
        return None

    @staticmethod
    def _most(user: _User) -> int:
        return OF_ALL if user.named else OF_ALL - OF_ALL // 4

    def _room(self, user: _User) -> bool:
        """Returns whether there may be one more receiver. Ends an idle one, if that helps."""
        if user.uid == 0:
            return True
        others = [other for other in self._users.values() if other.uid]
        count = sum(len(other.hung) + (other.process is not None) for other in others)
        if count < self._most(user):
            return True
        now = self._loop.time()
        idle = [
            other
            for other in others
            if other.process is not None and not other.busy and now - other.rests_since >= EVICTED_SECONDS
        ]
        idle.sort(key=lambda other: self._stays(other.uid))
        if not idle:
            return False
        self._end(idle[0])
        return True

    def _start(self, user: _User) -> bool:
        try:
            user.process = Process(lambda p, m, fds: self._heard(user, p, m, fds), lambda p: self._ended(user, p))
        except OSError as error:
            self._sparing("receiver-not-started", of=user.uid, uid=user.uid, reason=os.strerror(error.errno or 0))
            return False
        self._rest(user)
        return True

    def _rest(self, user: _User) -> None:
        """Handles that the user's process has no work."""
        user.busy, user.rests_since = False, self._loop.time()
        user.set_timer(self._loop.call_later(IDLE_SECONDS, self._idle, user))

    def _idle(self, user: _User) -> None:
        if self._stays(user.uid):
            self._rest(user)
        else:
            self._end(user)

    def _end(self, user: _User) -> None:
        """Ends an idle process."""
        user.set_timer(None)
        if user.process is not None:
            self._ending.add(user.process)
            user.process.close()
            user.process = None
        self._forget(user)

    def _forget(self, user: _User) -> None:
        if user.process is None and not user.waiting and not user.hung and self._users.get(user.uid) is user:
            del self._users[user.uid]

    def _heard(self, user: _User, process: Process, message: bytes, numbers: list[int]) -> None:
        if process is not user.process:
            self._closer.discard_all(Fd(number) for number in numbers)
            return
        if message == b"D":
            self._rest(user)
            self._serve_all()
            return
        request, user.request = user.request, None
        user.set_timer(self._loop.call_later(CLOSE_SECONDS, self._late, user))
        outcome = self._outcome(user.uid, message, numbers)
        if (request is None or not request.finish(outcome)) and isinstance(outcome, Arrived):
            outcome.close()

    def _outcome(self, uid: int, message: bytes, numbers: list[int]) -> Arrived | Failed:
        if message[:1] != b"A":
            if message[:1] == b"T":
                return Failed("a message with more fds than it may have, or than luod has room for", "pass 16 or fewer")
            return Failed("its files could not be received")
        count = message[1]
        letters, data = message[2 : 2 + count], message[2 + count :]
        taken = iter(numbers)
        self._budget.took(uid, len(numbers))

        def gone() -> None:
            self._budget.closed(uid)

        files = (
            Received(None if bytes((letter,)) == receiver.NOT_TAKEN else Fd(next(taken)), self.discard, gone)
            for letter in letters
        )
        return Arrived(data, tuple(files))

    def _serve_all(self) -> None:
        for user in list(self._users.values()):
            if user.waiting:
                self._serve(user)

    def _late(self, user: _User) -> None:
        """Handles that the process did not answer, or does not return from a close."""
        process, user.process, user.busy = user.process, None, False
        request, user.request = user.request, None
        user.set_timer(None)
        if process is not None:
            user.hung.add(process)
            self._sparing("receiver-killed", of=user.uid, uid=user.uid, pid=process.pid, hung=len(user.hung))
            process.kill()
        if request is not None:
            request.finish(Failed("its files could not be received in time"))
        self._serve_all()

    def _ended(self, user: _User, process: Process) -> None:
        self._ending.discard(process)
        if process is user.process:
            user.process, user.busy = None, False
            user.set_timer(None)
            request, user.request = user.request, None
            if request is not None:
                request.finish(Failed("the process that received its files ended"))
        user.hung.discard(process)
        self._serve_all()
        self._forget(user)

    def close(self) -> None:
        """Stops, since serve ends. Nothing is closed from here on, and there is no wait for processes, which end by
        themselves.
        """
        self._closed = True
        for user in self._users.values():
            user.set_timer(None)
            self._fail_waiting(user, Failed("luod is ending"))
            self._ending |= user.hung
            if user.process is not None:
                self._ending.add(user.process)
        if self._retry is not None:
            self._retry.cancel()
        self._closer.close()
        for process in self._ending:
            process.abandon()
