"""Findings about the way in which the next kernel is started: what systemd would drop, refuse or wait for. Pure.

The way `direct` leaves systemd out: its stores are dropped. With `systemd` a kexec that fails is a cold reboot.
"""

from __future__ import annotations

from luod.daemon.preflight.findings import finding, listed
from luod.daemon.store.schema import OutgoingRow
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from luod.daemon.preflight.facts import Facts
    from luod.daemon.systemd.manager import Manager, Service
    from luod.ipc.types.admin import Finding


_OF_AN_UPDATE: Final = 2
"""Files that an update stores: the processes that stop units and start the next kernel."""
_OF_A_PARTICIPANT: Final = 2
"""The session that it makes while its guest is paused, and the manifest of that."""


def judge(facts: Facts) -> Iterator[Finding]:
    """Yields the findings about the way of `facts`."""
    manager = facts.manager
    if manager.booted and manager.unknown:
        yield finding(
            "systemd-unknown",
            f"systemd does not answer: {manager.unknown}",
            "luod cannot tell what it would stop, drop or refuse",
            "see `systemctl status`",
        )
        return
    if facts.way == "direct":
        yield from _direct(manager)
    else:
        yield from _systemd(manager, sum(isinstance(row, OutgoingRow) for row, _state in facts.sessions))


def _direct(manager: Manager) -> Iterator[Finding]:
    others = [each for each in manager.services if each.name != manager.unit]
    dropped = [each for each in others if each.preserves and each.stored > len(each.sessions)]
    if dropped:
        yield finding(
            "stores-dropped",
            f"these units keep file descriptors in systemd's store: {listed([each.name for each in dropped])}",
            "luod starts the next kernel without systemd, so they are not delivered there",
            "update with --systemd if these units need them",
        )
    if orphaned := [each for each in others if each.active and each.sessions]:
        yield finding(
            "unit-sessions",
            f"these units have sessions of systemd (LUOSession=): {listed([each.name for each in orphaned])}",
            "luod starts the next kernel without systemd, which gives them empty sessions there; nothing retrieves "
            "the old ones, and they keep their memory until the kexec after that",
            "have these units take their sessions from luod, or update with --systemd",
        )


def _systemd(manager: Manager, sessions: int) -> Iterator[Finding]:
    own, held = manager.service(manager.unit), max(manager.held, sessions)
    if own is None or not own.preserves or own.stored < held:
        what = "luod is not a unit of systemd with FileDescriptorStorePreserve=yes"
        if own is not None and own.preserves:
            what = f"systemd's store of {own.name} has {own.stored} of the {held} file descriptors that luod holds"
        yield finding(
            "store-incomplete",
            what,
            "systemd ends luod before the kexec, and carries only the sessions in that store",
            "start luod as the unit of the package, and see `luoctl status` for what its store lacks; or update with "
            "--direct",
        )
    yield from _locked(manager)
    if manager.exitrd:
        yield finding(
            "exitrd",
            "/run/initramfs/shutdown exists, so systemd leaves the end of this kernel to that initial RAM disk",
            "one with a systemd older than 261 carries no session",
            "check its version and ignore this finding, or remove it; or update with --direct",
        )
    if sessions:
        yield finding(
            "cold-reboot",
            f"{sessions} session{'s' if sessions > 1 else ''} would be lost by a kexec that fails",
            "systemd then reboots the machine from its firmware; luod cannot cancel the update any more",
            "update with --direct, which survives a kexec that the kernel refuses",
        )
    if manager.minimum_uptime > 0:
        yield finding(
            "minimum-uptime",
            f"the machine must be up for {manager.minimum_uptime:.0f} s more (MinimumUptimeSec=)",
            "systemd waits for that while guests are paused",
            "update later, or set MinimumUptimeSec=0 in a drop-in of system.conf",
        )


def _locked(manager: Manager) -> Iterator[Finding]:
    if manager.locks:
        yield finding(
            "shutdown-inhibited",
            "other programs inhibit a shutdown: " + listed([f"{each.who} ({each.why})" for each in manager.locks]),
            "they would be stopped, in spite of their lock",
            "wait for their end (`systemd-inhibit --list`), or ignore this finding",
        )


def room(facts: Facts) -> Iterator[Finding]:
    """Yields the finding of a store without room for what an update stores while guests are paused."""
    own = facts.manager.service(facts.manager.unit)
    if own is None or not own.room:
        return
    needed = _OF_AN_UPDATE + _OF_A_PARTICIPANT * len(facts.declarations)
    if (left := own.room - max(facts.manager.held, own.stored)) < needed:
        yield finding(
            "store-full",
            f"systemd's store of {own.name} has room for {max(0, left)} more files, and the update needs {needed} "
            f"(FileDescriptorStoreMax={own.room})",
            "the update would be cancelled while guests are paused",
            "raise FileDescriptorStoreMax= in a drop-in, then run `systemctl daemon-reload`",
        )


def participants(facts: Facts) -> Iterator[Finding]:
    """Yields the finding of participants that systemd would stop before they are frozen."""
    if facts.way == "systemd":
        ended = stopped(facts.manager.services, [(each.name, each.unit) for each in facts.declarations])
        if ended:
            yield finding(
                "participant-stopped",
                f"luod-quiesce.target stops the units of these participants: {listed(ended)}",
                "their guests would end before they are frozen",
                "add IgnoreOnIsolate=yes to their units, in the section [Unit]; or update with --direct",
            )


def stopped(services: Iterable[Service], units: Iterable[tuple[str, str | None]]) -> list[str]:
    """Returns which participants luod-quiesce.target would stop, each with its unit. `units` has a unit for each."""
    stops = {each.name for each in services if each.active and not each.stays}
    return [f"{name} ({unit})" for name, unit in units if unit in stops]
