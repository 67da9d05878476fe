"""luod's activity as one state: idle, a step of an update, or being stopped. All modules read it here.

`TRANSITIONS` has every change of state; docs/updates.md draws it, and a test compares the two. The votes within a state
are in `luod.daemon.updates.transaction`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from luod.daemon.log import Log
from luod.ipc.types.phases import State
from luod.static import Final


class RunState(Enum):
    IDLE = "idle"
    CHECKING = "checking"
    """An update was requested; luod checks what it would lose."""
    STARTING = "starting"
    """The update was accepted; the image is loaded again, and the hook before-update runs."""
    PREPARING = "preparing"
    PREPARED = "prepared"
    """Participants are ready. Sessions change no more, except that participants create theirs while freezing."""
    FREEZING = "freezing"
    FROZEN = "frozen"
    """Guests are paused. No session changes."""
    JUMPING = "jumping"
    """The kexec cannot be stopped any more. It ends with this kernel, or when reboot(2) returns."""
    CANCELLING = "cancelling"
    """The update's changes are undone; then the participants are told."""
    STOPPING = "stopping"


TRANSITIONS: Final = {
    RunState.IDLE: {RunState.CHECKING, RunState.STOPPING},
    RunState.CHECKING: {RunState.IDLE, RunState.STARTING},
    RunState.STARTING: {RunState.PREPARING, RunState.CANCELLING},
    RunState.PREPARING: {RunState.PREPARED, RunState.CANCELLING},
    RunState.PREPARED: {RunState.FREEZING, RunState.CANCELLING},
    RunState.FREEZING: {RunState.FROZEN, RunState.CANCELLING},
    RunState.FROZEN: {RunState.JUMPING, RunState.CANCELLING},
    RunState.JUMPING: {RunState.CANCELLING},
    RunState.CANCELLING: {RunState.IDLE},
    RunState.STOPPING: {RunState.IDLE},
}
_TOLD: Final[dict[RunState, State]] = {
    RunState.STARTING: "preparing",
    RunState.PREPARING: "preparing",
    RunState.PREPARED: "preparing",
    RunState.FREEZING: "freezing",
    RunState.FROZEN: "freezing",
    RunState.JUMPING: "jumping",
}
_UPDATING: Final = frozenset(_TOLD) | {RunState.CANCELLING}
_LOGGED: Final = _UPDATING - {RunState.PREPARED, RunState.FROZEN}
_OPEN: Final = frozenset({RunState.IDLE, RunState.CHECKING, RunState.STARTING, RunState.PREPARING})
_HALF_OPEN: Final = frozenset({RunState.PREPARED, RunState.FREEZING})


class Run:
    """Holds the state. `watchers` run after each change."""

    def __init__(self, log: Log, *, jumping: bool = False) -> None:
        """`jumping`: the previous serve called reboot(2), and that has not returned yet."""
        self._state = RunState.JUMPING if jumping else RunState.IDLE
        self._log = log
        self.watchers: list[Callable[[], None]] = []

    @property
    def state(self) -> RunState:
        return self._state

    def is_in(self, *states: RunState) -> bool:
        return self._state in states

    @property
    def busy(self) -> bool:
        """Returns whether an update is checked or under way, or luod is being stopped. No other can begin meanwhile."""
        return self._state is not RunState.IDLE

    @property
    def updating(self) -> bool:
        """Returns whether an update is under way: it was accepted, and is neither over nor rolled back."""
        return self._state in _UPDATING

    def may_change(self, *, frozen: bool = False) -> bool:
        """Returns whether sessions may be changed. `frozen`: a participant creates NAME#GENERATION."""
        return self._state in _OPEN or (frozen and self._state in _HALF_OPEN)

    @property
    def told(self) -> State:
        """Returns the state for participants."""
        return _TOLD.get(self._state, "idle")

    def enter(self, state: RunState, **details: object) -> None:
        """Changes the state, and logs it with `details`. Raises ValueError: there is no such transition."""
        if state not in TRANSITIONS[self._state]:
            raise ValueError(f"from {self._state.value} to {state.value} there is no transition")
        self._state = state
        # Every line of an update can be found by its id in the journal.
        update = details.get("update", self._log.context.get("update"))
        self._log.context = (
            {} if state is RunState.IDLE or update is None else {"update": str(update), "phase": state.value}
        )
        write = self._log if state in _LOGGED else self._log.debug
        write(state.value, **details)
        for watcher in self.watchers:
            watcher()
