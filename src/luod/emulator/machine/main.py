"""`luoemu`: runs a command as the init of an emulated machine whose kernel has live update.

The command line only; the machine is `machine.Machine`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from luod.emulator.machine.machine import FAILED, Machine, MachineError, Settings
from luod.emulator.model.kernel import Profile
from luod.version import __version__

_EPILOG = """\
COMMAND is the machine's init. It runs again after every kexec, with LUOEMU_BOOT=2, 3, ... in its environment;
LUOEMU_KERNEL names a kernel image to load, LUOEMU_PROFILE the profile. The machine ends when init exits, with init's
status (128+N after signal N), or with 0 when something in it halts, restarts or powers off; 125: the machine failed.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="luoemu", description=__doc__.partition("\n")[0].partition(": ")[2].capitalize()
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="run")
    run = commands.add_parser(
        "run", help="boot a machine", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    run.add_argument(
        "--profile",
        choices=[profile.value for profile in Profile],
        default=Profile.MAINLINE.value,
        help="mainline: as Linux 7.3 answers; document: what the kernel document says beyond that (default: mainline)",
    )
    run.add_argument(
        "--share-network",
        action="store_true",
        help="the host's network inside; beware: kexec-tools takes every interface down before it jumps",
    )
    run.add_argument(
        "--trap-opens", action="store_true", help="see the device opened by trapping open(2), without FUSE"
    )
    run.add_argument("--kernel-log", action="store_true", help="write the emulated kernel's log to stderr")
    run.add_argument("command", nargs="+", metavar="COMMAND", help="init and its arguments, after --")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    settings = Settings(
        command=options.command,
        profile=Profile(options.profile),
        share_network=options.share_network,
        trap_opens=options.trap_opens,
        log=options.kernel_log,
    )
    try:
        return Machine(settings).run()
    except (MachineError, OSError) as error:  # an OSError: the host lacks something, such as fds or inotify instances
        print(f"luoemu: {error}", file=sys.stderr)
        return FAILED
