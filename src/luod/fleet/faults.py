"""The faults of a rehearsal, from a TOML file. Pure, but for `read`. `luod.decode` reads the annotations.

[hosts.vmhost7]
fault = "veto"
reason = "a backup is running"
"""

import tomllib
from collections.abc import Collection, Mapping
from typing import Any, Final

from luod.decode import Decoder, Misfit
from luod.errors import BadInput
from luod.frozen import frozen
from luod.static import Literal

Kind = Literal["veto", "hang", "panic", "vmm-lost", "disk-full", "slow-link"]
KINDS: Final[Mapping[str, str]] = {
    "veto": "a guest refuses the update in preparing",
    "hang": "a guest does not answer in freezing",
    "panic": "the next kernel ends before anything runs",
    "vmm-lost": "a VMM is not started in the next kernel",
    "disk-full": "the file system of luod's state directory is full",
    "slow-link": "answers of commands come 3 s late, so that of the update is lost with the connection",
}
"""The faults, with what each does."""
_DECODER: Final = Decoder(strict=True)


@frozen
class Fault:
    """The fault of one host. `reason` is the text of a veto."""

    fault: Kind
    reason: str = "the rehearsal vetoes"


@frozen
class _File:
    hosts: dict[str, Fault] | None = None


def parse(content: Mapping[str, Any], hosts: Collection[str]) -> Mapping[str, Fault]:
    """Returns the faults by host. Raises BadInput: a host that is not in the inventory, or an unknown fault."""
    try:
        faults = _DECODER(_File, content).hosts or {}
    except Misfit as error:
        raise BadInput(f"faults: {error}", hint=f"a table [hosts.NAME] has fault = one of {', '.join(KINDS)}") from None
    if strange := sorted(set(faults) - set(hosts)):
        raise BadInput(f"faults: no host {strange[0]!r} is in the inventory", hint="use the names of the inventory")
    return faults


def read(path: str, hosts: Collection[str]) -> Mapping[str, Fault]:
    """Returns the faults of a file by host. Raises BadInput, OSError."""
    with open(path, "rb") as file:
        try:
            content = tomllib.load(file)
        except ValueError as error:
            raise BadInput(f"{path}: {error}") from None
    return parse(content, hosts)
