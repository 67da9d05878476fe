"""The policy in force, read at the start and at each SIGHUP. A bad new file changes only the log and the status.

The last good file is kept in the state directory, with what it says as JSON. A luod that starts with a bad file (in the
next kernel, for example) continues with that. With the same file it reads the JSON only: it starts while guests are
paused, and importing tomllib takes longer than the rest. Without a copy luod serves the sessions that it holds, and
creates new ones for root only.
"""

from __future__ import annotations

import asyncio
import json
import os

from luod.daemon.policy import file, membership, rules
from luod.daemon.policy.rules import CLOSED, Settings
from luod.daemon.store import state_file
from luod.errors import PolicyError, Refused
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from luod.daemon.log import Log
    from luod.daemon.policy.rules import Granted
    from luod.daemon.store.write_hold import WriteHold
    from luod.ipc.server.peer import Peer
    from luod.session_name import SessionName

FILE: Final = "policy"
"""The name of the copy in the state directory."""
_THREADS: Final = 2
_FORMAT: Final = 1
"""The format of the copy in the state directory. A copy of another one is not used; before 1 it had no number."""


class Policy:
    """`settings` is in force. `error` is the mistake in a later file, None without one."""

    def __init__(self, path: str | None, directory: str, hold: WriteHold, log: Log) -> None:
        """`path` None: the default file, which may be missing. `directory` is the state directory, and `hold` whether
        the copy there may be written now.
        """
        self.path = file.DEFAULT_PATH if path is None else path
        self._required = path is not None
        self._good = os.path.join(directory, FILE)
        self._hold = hold
        self._log = log
        self._users: dict[int, str] = {}
        """Names, each asked once a reload."""
        self._executor: Executor | None = None
        self.settings = Settings()
        self.error: PolicyError | None = None
        self.present = False
        self.changed: list[Callable[[], None]] = []
        """Called after a reload that took."""
        self._start()

    def terms(self, peer: Peer) -> Granted:
        """Returns the terms as `granted`, at once, and without names."""
        return rules.granted(self.settings, peer, membership.of, None)

    async def granted(self, peer: Peer) -> Granted:
        while True:
            users = self._users
            try:
                return rules.granted(self.settings, peer, membership.of, users.__getitem__)
            except KeyError:
                # In a thread, with few of them: it may make a request over the network, which may not be answered.
                loop = asyncio.get_running_loop()
                users[peer.uid] = await loop.run_in_executor(self._asking(), _name_of, peer.uid)

    def _asking(self) -> Executor:
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor  # here: few policies have names with {user}

            self._executor = ThreadPoolExecutor(_THREADS)
        return self._executor

    @staticmethod
    def check_create(granted: Granted, name: SessionName, held: int) -> None:
        """Checks that the user may create this session, and one more than the `held` ones. Raises Refused.

        This is before any answer about the name: a user that may not have it does not learn whether it exists.
        """
        if not granted.allows(name.base):
            raise Refused(
                message=f"the policy does not allow you a session '{name}'",
                hint=f"allowed names: {', '.join(granted.shown) or 'none'}",
            )
        if (held and held >= granted.sessions) or not granted.sessions:
            raise Refused(
                message=f"luod's policy gives you no more sessions than {granted.sessions}, and you have as many",
                hint="release some, or raise `sessions` in the policy",
            )

    def reload(self) -> None:
        """Reads the policy again, at SIGHUP."""
        try:
            self._take()
        except PolicyError as error:
            self.error = error
            self._log.error("policy-bad", error=error, hint=error.hint, kept="the policy of before")
            return
        self._log("policy", file=self.path if self.present else "none", rules=len(self.settings.rules))
        for changed in self.changed:
            changed()

    def _start(self) -> None:
        try:
            self._take()
        except PolicyError as error:
            self.error = error
            _text, table = self._kept()
            try:
                self.settings = file.settings(table, self._good)
                kept = "the last good one"
            except PolicyError:
                self.settings = CLOSED
                kept = "none: nothing new is taken on"
            self._log.error("policy-bad", error=error, hint=error.hint, kept=kept)

    def _take(self) -> None:
        try:
            data = file.read(self.path)
        except FileNotFoundError:
            if self._required:
                raise PolicyError(self.path, "", "is not there", hint="it was given by --config") from None
            self.settings, self.present, self.error = Settings(), False, None
            self._hold.write(FILE, self._forget)
            return
        text, table = self._kept()
        known = text is not None and text.encode() == data
        if not known:
            table = file.table(data, self.path)
        self.settings = file.settings(table, self.path)
        self.present, self.error = True, None
        self._users = {}
        if known:
            self._hold.drop(FILE)
        else:
            self._hold.write(FILE, lambda: self._keep(data, table))

    def _kept(self) -> tuple[str | None, object]:
        """Returns the text of the last good file, and what it says; None, None without one."""
        try:
            with open(self._good, encoding="utf-8") as kept:
                found = json.load(kept)
        except (OSError, ValueError, RecursionError):
            return None, None
        match found:
            case [str(text), table]:  # luod 0.1.0
                return text, table
            case [int(number), str(text), table] if number == _FORMAT:
                return text, table
        return None, None

    def _keep(self, data: bytes, table: object) -> None:
        try:
            state_file.replace(self._good, json.dumps([_FORMAT, data.decode(), table]).encode())
        except OSError as error:
            self._log.warning("policy-copy", error=error)

    def _forget(self) -> None:
        try:
            os.unlink(self._good)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._log.warning("policy-copy", error=error)


def _name_of(uid: int) -> str:
    """Returns the user's name, or its number without one."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
