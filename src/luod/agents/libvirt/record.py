"""What the agent writes down about a domain in its sessions' manifests, for the next kernel and for `luoctl show`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from luod.agents.guests import pairing
from luod.agents.libvirt import description
from luod.agents.libvirt.description import Description
from luod.errors import QemuRefusal

AGENT: Final = "libvirt"
FORMAT: Final = 1
DOMAIN: Final = "domain"
"""The member with libvirt's XML."""


def about(domain: Description) -> dict[str, Any]:
    """Returns what the session NAME says about its domain, for `OutgoingSession.annotate`."""
    return {**pairing.header(AGENT, FORMAT), DOMAIN: domain.text}


def read(name: str, said: Mapping[str, Any]) -> Description:
    """Returns the domain of the session `name`. Raises QemuRefusal: it is not of this agent, or of a newer luod."""
    pairing.check_header(AGENT, FORMAT, name, said)
    text = said.get(DOMAIN)
    if not isinstance(text, str):
        raise QemuRefusal(
            f"the record of the session {name} has no description of the domain",
            hint="the guest's memory and state are in the session; see docs/libvirt.md",
        )
    return description.read(text)
