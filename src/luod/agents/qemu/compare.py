"""Compares what two QEMUs were started by, since QEMU does not: a device more on the loading side is loaded as reset.

Only the guest's hardware and what QEMU opens for it counts, not how an option is spelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from luod.agents.qemu.command_line import Plan
from luod.agents.qemu.options import Option, split

_MERGED: Final = frozenset(["machine", "m"])
"""QEMU merges these, and the plan has what they mean."""


def differences(old: Plan, new: Plan) -> tuple[str, ...]:
    """Returns how the guest of `new` differs from that of `old`, in words; () if the state of `old` fits into `new`.

    Raises QemuRefusal: the arguments cannot be read, which `plan` would have found.
    """
    found = []
    if old.machine != new.machine:
        found.append(f"the machine type was {old.machine}, and is {new.machine}")
    if old.ram_bytes != new.ram_bytes:
        found.append(f"the RAM had {old.ram_bytes} bytes, and has {new.ram_bytes}")
    before, after = _meanings(old.arguments), _meanings(new.arguments)
    found += [f"no longer there: {_shown(each)}" for each in _without(before, after)]
    found += [f"added: {_shown(each)}" for each in _without(after, before)]
    if not found and before != after and _ordered(before) != _ordered(after):
        found.append("the options are in another order, so that QEMU gives the devices other addresses")
    return tuple(found)


Meaning = tuple[str, frozenset[tuple[str, str]] | str]


def _meanings(arguments: Sequence[str]) -> list[Meaning]:
    found: list[Meaning] = []
    machine: dict[str, str] = {}
    for option in split(arguments):
        name = _name(option)
        if name == "machine":
            machine |= {key: value for key, value in option.parameters.items if key != "type"}
        elif name not in _MERGED:
            items = option.parameters.items
            found.append((name, frozenset(dict(items).items()) if items else option.value))
    return [*found, *(("machine", frozenset([pair])) for pair in sorted(machine.items()))]


def _name(option: Option) -> str:
    return {"M": "machine", "": "hda"}.get(option.name, option.name)


def _without(some: Iterable[Meaning], others: Iterable[Meaning]) -> list[Meaning]:
    return list((Counter(some) - Counter(others)).elements())


def _ordered(meanings: Sequence[Meaning]) -> dict[str, list[Meaning]]:
    """Returns the options of each name in their order: only among each other does it matter."""
    return {name: [each for each in meanings if each[0] == name] for name in {each[0] for each in meanings}}


def _shown(meaning: Meaning) -> str:
    name, value = meaning
    text = value if isinstance(value, str) else ",".join(f"{key}={given}" for key, given in sorted(value))
    return f"-{name} {text}".rstrip()
