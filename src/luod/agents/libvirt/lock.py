"""One agent for a domain at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager

from luod.agents.guests import lock
from luod.agents.libvirt import paths


def held(name: str) -> AbstractContextManager[None]:
    """Keeps other agents from the domain `name` in the block: `luod.agents.guests.lock.held`."""
    paths.make_folder()
    return lock.held(
        paths.lock(name),
        f"the domain {name}",
        at_its_end="when that process is ended by SIGTERM, a running domain runs on",
    )
