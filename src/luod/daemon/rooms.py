"""The rooms of serve that no Retrieve needs: updates, cleanup, the timeline, stopping. `luod.daemon.later` builds them.

They continue what the previous serve had begun: an update that called reboot(2), reapers, carry-overs, and the
operator's command after an update. Until then nothing of that is lost, since the registry has it.
"""

from __future__ import annotations

from luod.daemon.cleanup.carry_over import CarryOver
from luod.daemon.cleanup.reaping import Reaping
from luod.daemon.cleanup.workloads import Workloads
from luod.daemon.core import Core
from luod.daemon.run_state import RunState
from luod.daemon.stopping import Stopping
from luod.daemon.store_watch import StoreWatch
from luod.daemon.timeline.recorder import Recorder
from luod.daemon.updates.disk_writes import DiskWrites
from luod.daemon.updates.hooks import Hooks
from luod.daemon.updates.inhibitor import Inhibitor
from luod.daemon.updates.kexec_image import KexecImage
from luod.daemon.updates.stages import Stages
from luod.daemon.updates.undo import Undo
from luod.daemon.updates.update import Updater
from luod.daemon.updates.waiting_guests import WaitingGuests
from luod.static import Final

_PAUSED: Final = (RunState.FREEZING, RunState.FROZEN, RunState.JUMPING, RunState.CANCELLING)


class Rooms:
    """Needs a running loop. `close` at the end of serve."""

    def __init__(self, core: Core) -> None:
        holdings, sessions, participants, run, log = core.holdings, core.sessions, core.participants, core.run, core.log
        self.reaping: Final = Reaping(holdings, sessions, core.policy, log)
        carry_over = CarryOver(holdings, sessions, log)
        hold = holdings.registry.file.hold
        self.recorder: Final = Recorder(core.earlier, core.directory, log, hold, jumping=run.updating)
        self._hooks = Hooks(holdings, core.policy, run, self.reaping.deadline_left, log)
        self.image: Final = KexecImage(holdings, sessions, participants, run, log)
        self.inhibitor: Final = Inhibitor(holdings, core.policy, log)
        self.undo: Final = Undo(core.directory, holdings.registry.rest.boot_id, log, lambda: not run.busy, hold)
        self._guests = WaitingGuests(holdings.registry, run)
        stages = Stages(
            holdings,
            self.image,
            sessions,
            participants,
            self.recorder,
            self._hooks,
            self.inhibitor,
            self.undo,
            DiskWrites(holdings, self._guests, log),
            run,
            log,
            stuck_seconds=core.stuck_seconds,
        )
        self.updater: Final = Updater(
            holdings,
            self.image,
            sessions,
            participants,
            self.recorder,
            stages,
            core.policy,
            run,
            log,
            failed=core.failed,
        )
        self.workloads: Final = Workloads(holdings, sessions, participants, self.reaping, carry_over, log)
        self.stopping: Final = Stopping(holdings, sessions, run, log)
        self._store_watch = StoreWatch(holdings.fds, sessions, core.policy, run)
        run.watchers.append(lambda: holdings.fds.blackout(lasts=run.is_in(*_PAUSED)))
        holdings.fds.blackout(lasts=run.is_in(*_PAUSED))
        self.updater.take_over()
        self.reaping.take_over()
        carry_over.take_over()
        self._hooks.take_over()
        core.foreign.begin()

    def close(self) -> None:
        self._hooks.close()
        self.inhibitor.close()
        self._store_watch.close()
        self.undo.close()
        self._guests.close()
        self.recorder.close()
