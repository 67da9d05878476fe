"""serve answers clients. It may be killed at any moment: the supervisor, of which it is a fork, holds its fds.

This module connects the parts; most work is done in `luod.daemon.sessions.service` and `luod.daemon.updates.update`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable

from luod.daemon.core import Core
from luod.daemon.later import Later
from luod.daemon.log import Log
from luod.daemon.options import Options
from luod.daemon.policy.current import FILE as POLICY
from luod.daemon.policy.current import Policy
from luod.daemon.refusals import Refusals
from luod.daemon.run_state import Run
from luod.daemon.sessions.held_files import HeldFiles
from luod.daemon.sessions.service import SessionService
from luod.daemon.store.copies import WrittenByNewer
from luod.daemon.store.fd_names import JUMP
from luod.daemon.store.fd_store import FdStore
from luod.daemon.store.recovery import take_over
from luod.daemon.store.write_hold import WriteHold
from luod.daemon.supervisor.serve_process import Given
from luod.daemon.timeline.earlier import Earlier
from luod.daemon.updates.participants import Participants
from luod.ipc.interfaces.sessions import Sessions
from luod.ipc.interfaces.updates import Updates
from luod.ipc.server.admission import Room
from luod.ipc.server.connection import Limits
from luod.ipc.server.foreign_files import ForeignFiles
from luod.ipc.server.methods import Interface
from luod.ipc.server.peer import Peer
from luod.ipc.server.sparing import Sparing
from luod.ipc.server.turns import Turns, Turnstile
from luod.ipc.server.wire import Listener


def run(options: Options, given: Given) -> int:
    """Serves until SIGTERM, SIGINT or the end of the supervisor; returns the exit status. Raises LuodError if it cannot
    start.
    """
    return asyncio.run(_serve(options, given))


async def _serve(options: Options, given: Given) -> int:
    log, directory = Log("serve", options.log_level), options.state_directory
    loop = asyncio.get_running_loop()
    end: asyncio.Future[int] = loop.create_future()

    def stop(status: int) -> None:
        if not end.done():
            end.set_result(status)

    def supervisor_lost() -> None:
        log.error("supervisor-lost")
        stop(1)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, 0)

    # Set before the file is read, so that no SIGHUP is missed.
    hangup = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    hold = WriteHold(_runtime_directory(options))
    hold.begin(restoring=True)
    policy = Policy(options.config, directory, hold, log)

    sparing = Sparing(log)
    store = FdStore(given.channel, given.fds, supervisor_lost)
    try:
        holdings = await take_over(store, directory, hold, log)
    except WrittenByNewer as error:
        from luod.daemon.refusing import refuse

        return await refuse(error, given, store, end, log)
    run_state = Run(log, jumping=JUMP in store)
    foreign = ForeignFiles(sparing, stays=lambda uid: any(f.peer.uid == uid for f in participants.followers))
    sessions = SessionService(holdings, policy, run_state, foreign.discard, log, sparing)
    sessions.participation = participants = Participants(holdings, run_state, log, sparing)
    # Participants pass manifests while guests are frozen: the process that reads them must run by then.
    participants.followed = lambda peer: foreign.warm(peer.uid, named=policy.terms(peer).named)
    held = HeldFiles(holdings, policy, lambda: participants.updating, foreign.discard, sparing)
    sessions.take_over()
    core = Core(
        holdings,
        policy,
        run_state,
        sessions,
        participants,
        foreign,
        Earlier(holdings.registry),
        directory,
        options.end_stuck_after,
        lambda _error: stop(1),
        log,
    )

    def rooms_failed(error: BaseException) -> None:
        log.error("rooms-failed", error=repr(error))
        stop(1)

    later = Later(core, rooms_failed)
    if run_state.updating:
        # Sessions stay closed to changes until reboot(2), which the previous serve called, has returned.
        await later.rooms()

    offers = _Offers(core, held, later)
    turnstile = Turnstile(Turns(lambda: participants.users_in_update))
    refusals = Refusals(sparing, log)
    listeners = [
        Listener(
            listening,
            interfaces,
            sparing,
            limits=Limits(),
            foreign=foreign,
            root_only=root_only,
            room=None if root_only else offers.room,
            turnstile=turnstile,
            refused=refusals,
            before_reply=holdings.registry.write,
        )
        for listening, interfaces, root_only in (
            (given.sessions, offers.to_all, False),
            (given.admin, offers.to_root, True),
        )
    ]
    reloading = asyncio.ensure_future(_reload(policy, hangup, store, hold))
    await store.ready()
    later.begin()
    status = await end
    reloading.cancel()
    later.close()
    foreign.close()
    for listener in listeners:
        await listener.close()
    turnstile.close()
    sparing.close()
    holdings.close()
    return status


def _runtime_directory(options: Options) -> str | None:
    """Returns the directory of the sockets, which is in memory; None if the state directory is that too."""
    found = os.path.dirname(options.socket) or "."
    return None if os.path.realpath(found) == os.path.realpath(options.state_directory) else found


class _Offers:
    """The interfaces that a peer gets, and how many connections: by its socket, and by the policy."""

    def __init__(self, core: Core, held: HeldFiles, later: Later) -> None:
        self._core = core
        self._held = held
        self._later = later

    def to_all(self, peer: Peer) -> Iterable[Interface]:
        core = self._core
        found: list[Interface] = [
            Sessions(core.sessions, self._held, self._later, peer),
            Updates(core.participants, peer),
        ]
        if not peer.root and core.policy.terms(peer).may_update:
            found.append(self._to_operators(peer))
        return found

    def to_root(self, peer: Peer) -> Iterable[Interface]:
        return [*self.to_all(peer), self._to_operators(peer)]

    def _to_operators(self, peer: Peer) -> Interface:
        from luod.daemon.admin import AdminService  # no client of a session waits for it
        from luod.ipc.interfaces.admin import Admin

        policy = self._core.policy
        return Admin(AdminService(self._core, self._later.rooms), peer, lambda: policy.terms(peer).may_update)

    def room(self, peer: Peer) -> Room:
        policy = self._core.policy
        granted = policy.terms(peer)
        return Room(granted.connections, policy.settings.all_connections, granted.named)


async def _reload(policy: Policy, hangup: asyncio.Event, store: FdStore, hold: WriteHold) -> None:
    """Reads the policy at each SIGHUP; while guests are paused or a disk hangs, at the end of that."""
    while True:
        await hangup.wait()
        hangup.clear()
        if hold.restoring:
            policy.reload()
        else:
            hold.write(POLICY, policy.reload)
        await store.ready()
