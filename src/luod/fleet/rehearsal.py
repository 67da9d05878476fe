"""A rehearsal: starts the hosts of an inventory, runs a playbook on them, asks each host what became of it."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from luod.errors import BadInput, HostLost
from luod.fleet import faults as faults_file
from luod.fleet import fleet, outcome
from luod.fleet.ansible import Ansible
from luod.fleet.ansible import recap as ansible_recap
from luod.fleet.host import EmulatedHost
from luod.fleet.outcome import Report, Seen
from luod.fleet.setting import Image
from luod.frozen import frozen
from luod.ipc.decode import decode
from luod.ipc.types.admin import UpdateTimes

_NOT_MOUNTED: Final = ("/", "/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/tmp", "/proc", "/sys", "/dev", "/run")
"""Directories in place of which a machine cannot have one with the next kernel's files only."""


@frozen
class Wishes:
    """What to rehearse. `runs`: how often the playbook runs, on the same hosts. `more`: further arguments of
    ansible-playbook. `programs`: the directory of Ansible's programs, None: found by PATH.
    """

    inventory: str
    playbook: str
    image: Image
    faults: str | None = None
    limit: str | None = None
    guests: int = 2
    guest_bytes: int = 1 << 20
    runs: int = 1
    more: tuple[str, ...] = ()
    programs: str | None = None
    share_network: bool = False


def rehearse(wishes: Wishes) -> Report:
    """Rehearses, and returns the report of the last run. Raises LuodError, OSError."""
    for path in (wishes.image.kernel, *wishes.image.initrds):
        _require_own_directory(path)
    ansible = Ansible(wishes.programs)
    addressed = ansible.hosts(wishes.inventory, wishes.limit)
    if not addressed:
        raise BadInput(f"{wishes.inventory} has no hosts", hint="see `ansible-inventory --list`")
    ansible.require_playbook(wishes.inventory, wishes.playbook)
    names = [each.name for each in addressed]
    faults = {} if wishes.faults is None else faults_file.read(wishes.faults, names)
    more = [*wishes.more, *(() if wishes.limit is None else ("--limit", wishes.limit))]
    hosts_of = fleet.running(
        addressed,
        faults,
        wishes.image,
        guests=wishes.guests,
        guest_bytes=wishes.guest_bytes,
        share_network=wishes.share_network,
    )
    with hosts_of as running, tempfile.NamedTemporaryFile() as log:
        for _run in range(wishes.runs):
            asked, began = time.time(), time.monotonic()
            status = ansible.play(wishes.inventory, wishes.playbook, running.ssh, more, log.name)
            seconds = time.monotonic() - began
        with open(log.name, encoding="utf-8", errors="replace") as file:
            recap = ansible_recap(file.read().splitlines())
        with ThreadPoolExecutor(os.cpu_count()) as asking:
            seen = asking.map(lambda host: _seen(host, wishes.image), running.hosts.values())
            hosts = tuple(
                outcome.judge(name, found, recap.get(name), None if name not in faults else faults[name].fault)
                for name, found in zip(running.hosts, seen, strict=True)
            )
    return Report(
        round(asked, 3), round(seconds, 3), os.path.basename(wishes.playbook), status, hosts, outcome.stopped_at(hosts)
    )


def _seen(host: EmulatedHost, image: Image) -> Seen | None:
    """Returns what a host says of itself, None if it does not answer."""
    try:
        status = host.ask_json("luoctl --json status")
        timeline = host.ask_json("luoctl --json timeline")["timeline"]
        initrds = " ".join(f"--initrd {shlex.quote(path)}" for path in image.initrds)
        # Its status says whether there is a refusal.
        checked = host.ask_json(f"luoctl --json check --kernel {shlex.quote(image.kernel)} {initrds} || [ $? = 4 ]")
    except HostLost:
        return None
    told = None if timeline is None else decode(UpdateTimes, timeline, "timeline")
    left = status["waiting"] + status["retrieved"]
    return Seen(
        status["boot"],
        left,
        status["torn"],
        status["kernel_loaded"],
        told,
        tuple(each["name"] for each in checked["findings"]),
    )


def _require_own_directory(path: str) -> None:
    """Raises BadInput: a host cannot show a next kernel at this path."""
    directory = os.path.dirname(path)
    if not os.path.isabs(path) or os.path.normpath(directory) in _NOT_MOUNTED or not os.path.isdir(directory):
        raise BadInput(
            f"{path}: hosts cannot show a kernel there",
            hint="name a file in a directory of its own that exists here too, such as /boot/vmlinuz",
        )
