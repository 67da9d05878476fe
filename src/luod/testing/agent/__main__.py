"""The agent's command line, and its end. The package describes the agent."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from luod.testing import agent
from luod.testing.agent.channel import Channel
from luod.testing.agent.loop import Agent

LINUX_REBOOT_CMD_POWER_OFF: Final = 0x4321FEDC


def power_off() -> None:
    """Switches the machine off, and does not return. A real kernel panics when its init ends."""
    import ctypes
    import traceback  # both late: the agent starts in every boot

    if not isinstance(sys.exception(), SystemExit):
        traceback.print_exc()  # on the console, and so in the test's failure
    os.sync()
    ctypes.CDLL(None, use_errno=True).reboot(LINUX_REBOOT_CMD_POWER_OFF)


def main(arguments: Sequence[str] | None = None, *, forks: bool = False) -> NoReturn:
    """Runs the agent. `forks`: this process has imported what programs need, and may fork them from itself."""
    parser = argparse.ArgumentParser(prog="luod.testing.agent", description=(agent.__doc__ or "").splitlines()[0])
    parser.add_argument("--channel", required=True, help="number of an inherited fd, or the path of a serial port")
    parser.add_argument("--outputs", default="", help="a directory for what spawned programs write to stderr")
    parser.add_argument("--forks", action="store_true", help="fork programs that may be forked, from this process")
    parser.add_argument("--preload", nargs=2, default=("", ""), help="directories and modules to import before a fork")
    parser.add_argument("--power-off", action="store_true", help="switch the machine off at the end, as init must")
    given = parser.parse_args(arguments)
    channel: str = given.channel
    fd = int(channel) if channel.isdecimal() else os.open(channel, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        imports = given.preload if given.forks else None
        Agent(Channel(fd), outputs=given.outputs, forks=forks or given.forks, imports=imports).serve()
    finally:
        if given.power_off:
            power_off()


if __name__ == "__main__":
    main()
