"""What the two sessions of a guest say in their manifests, so that its memory and its state are loaded together.

The session NAME has the memory and the agent's description of the guest; NAME#GENERATION has the state of its devices.
Both have the number of the update whose state they belong to. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from luod.errors import QemuRefusal

GENERATION: Final = "generation"
RUNNING: Final = "running"
SESSIONS_LOST: Final = "sessions_lost"
"""How often luod lost the session, and the agent created it again: for `luoctl show`."""
RAM: Final = "ram"
STATE: Final = "state"
RAM_TOKEN: Final = 2
"""Token 1 stays free: a QEMU in its own mode cpr-luo has its state there, and a reader can tell the two apart."""
STATE_TOKEN: Final = 3


def header(agent: str, form: int) -> dict[str, Any]:
    """Returns the first members of a guest's description by `agent`, which is in the agent's format `form`."""
    return {"agent": agent, "format": form, "tokens": {RAM: RAM_TOKEN, STATE: STATE_TOKEN}}


def about_state(agent: str, generation: int | None, *, running: bool) -> dict[str, Any]:
    """Returns what the session NAME#GENERATION says. `running`: the guest ran until the update paused it."""
    return {"agent": agent, GENERATION: generation, RUNNING: running}


def is_of(agent: str, said: Mapping[str, Any]) -> bool:
    """Returns whether a session with this in its manifest is of `agent`."""
    return said.get("agent") == agent


def check_header(agent: str, form: int, name: str, said: Mapping[str, Any]) -> None:
    """Raises QemuRefusal: the session `name` is not of `agent`, or of a newer luod."""
    if not is_of(agent, said):
        raise QemuRefusal(
            f"the session {name} is not of the agent of {agent}", hint="restore it with the program that created it"
        )
    if said.get("format") != form:
        raise QemuRefusal(
            f"the session {name} was written in format {said.get('format')!r} of the agent of {agent}",
            hint=f"this luod reads format {form}: restore it with the luod that wrote it",
        )


def check_generation(name: str, said: Mapping[str, Any], of_state: Mapping[str, Any], generation: int | None) -> None:
    """Raises QemuRefusal: the RAM and the state are not of the same update, whose number is `generation`."""
    found = (said.get(GENERATION), of_state.get(GENERATION), generation)
    if generation is None or found != (generation, generation, generation):
        raise QemuRefusal(
            f"the memory of {name} is of update {found[0]}, its device state of update {found[1]}",
            hint="the guest cannot be resumed: `luoctl discard` it, and start it from the beginning",
        )
