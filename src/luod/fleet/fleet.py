"""The hosts of a rehearsal: makes their directories and the programs that they and Ansible find, and starts them."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping

from luod.fleet.ansible import Addressed
from luod.fleet.faults import Fault
from luod.fleet.host import EmulatedHost
from luod.fleet.setting import Image, Setting
from luod.frozen import frozen
from luod.testing.interpreter import Interpreter, needed_interpreter
from luod.testing.scratch import Scratch


@frozen
class Fleet:
    """The hosts by their names in the inventory, in its order, and the program that Ansible runs in place of ssh."""

    hosts: Mapping[str, EmulatedHost]
    ssh: str


@contextlib.contextmanager
def running(
    addressed: tuple[Addressed, ...],
    faults: Mapping[str, Fault],
    image: Image,
    *,
    guests: int,
    guest_bytes: int,
    share_network: bool,
) -> Iterator[Fleet]:
    """Yields the hosts when their guests take part in updates. They end with the block.

    Raises MachineUnavailable: this user may not make machines. Raises HostLost: a host ended.
    """
    python = needed_interpreter()
    # Not below TMPDIR: the path of a UNIX socket has up to 107 bytes. Not below /run: machines have their own.
    owned = Scratch("luod-fleet-", directory="/tmp")
    scratch = str(owned.path)
    with contextlib.ExitStack() as ending:
        ending.callback(owned.remove)
        programs = os.path.join(scratch, "programs")
        os.mkdir(programs)
        _program(f"{programs}/luoctl", python, python.module("luod.ctl.main"))
        hosts = {}
        for number, each in enumerate(addressed):
            directory = os.path.join(scratch, str(number))
            os.mkdir(directory)
            names = tuple(f"guest-{index + 1}" for index in range(guests))
            given = Setting(each.name, directory, programs, image, names, guest_bytes, faults.get(each.name))
            hosts[each.name] = EmulatedHost(given, python, share_network=share_network)
            ending.callback(hosts[each.name].close)
        directories = {each.address: hosts[each.name].setting.directory for each in addressed}
        with open(f"{scratch}/hosts.json", "w", encoding="utf-8") as file:
            json.dump(directories, file)
        _program(f"{scratch}/ssh", python, python.module("luod.fleet.ssh", file.name))
        for host in hosts.values():
            host.until_ready()
        yield Fleet(hosts, f"{scratch}/ssh")


def _program(path: str, python: Interpreter, command: list[str]) -> None:
    """Writes a shell script that runs the command with more arguments."""
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in python.environment.items())
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec env {variables} {shlex.join(command)} "$@"\n')
    os.chmod(path, 0o755)
