"""`luoemu`: runs a command as the init of an emulated machine whose kernel has live update.

This is only the command line; the machine is `machine.Machine`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from luod.emulator.machine.machine import FAILED, DeviceSettings, Machine, MachineError, Settings
from luod.emulator.model.kernel import Profile
from luod.version import __version__

_EPILOG = """\
COMMAND is the machine's init. It runs again after every kexec, with LUOEMU_BOOT=2, 3, ... in its environment;
LUOEMU_KERNEL names a kernel image to load, LUOEMU_PROFILE the profile; the image that it names with -no-vfio appended
is a kernel that cannot take devices over. The machine ends when init exits, with init's
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
        help="mainline: as Linux 7.3; document: with the calls that only the kernel document has (default: mainline)",
    )
    run.add_argument(
        "--share-network",
        action="store_true",
        help="use the host's network; beware: kexec-tools takes every interface down before a kexec",
    )
    run.add_argument("--trap-opens", action="store_true", help="trap open(2) of the device instead of a FUSE file")
    run.add_argument("--kernel-log", action="store_true", help="write the emulated kernel's log to stderr")
    devices = run.add_argument_group("devices", "PCI devices of the machine; they need FUSE")
    devices.add_argument(
        "--vfio",
        action="append",
        default=[],
        metavar="ADDRESS[,OPTION…]",
        help="a device, such as 0000:01:00.0,msix=8; may be repeated. Options: vendor=, device=, class=, bars=16K+1M, "
        "msix=, msi=, group=, display, vf-of=ADDRESS, driver=NAME, reset=works|none|fails-later, acs-quirk",
    )
    devices.add_argument(
        "--devices", metavar="FILE.toml", help="more devices: a table for each address, with the same options"
    )
    devices.add_argument(
        "--vfio-rules",
        choices=["v2", "v5"],
        default="v2",
        help="how devices are preserved: as in the kernel document (v2) or in the newest posting (v5; default: v2)",
    )
    devices.add_argument(
        "--iommufd-preservation", action="store_true", help="preserve an iommufd too, as its posted series does"
    )
    run.add_argument("command", nargs="+", metavar="COMMAND", help="init and its arguments, after --")
    return parser


def _devices(options: argparse.Namespace) -> DeviceSettings | None:
    """Returns the devices of the options. Raises ValueError, with a message for the user, for an invalid one."""
    if not options.vfio and not options.devices:
        return None
    from luod.emulator.machine import device_config
    from luod.emulator.model.vfio.hardware.description import parse_device
    from luod.emulator.model.vfio.rules import RULES

    descriptions = [parse_device(text) for text in options.vfio]
    if options.devices:
        descriptions += device_config.read(options.devices)
    return DeviceSettings(descriptions, RULES[options.vfio_rules], options.iommufd_preservation)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.vfio or options.devices) and options.trap_opens:
        parser.error("devices need FUSE: leave out --trap-opens")
    try:
        devices = _devices(options)
    except ValueError as error:
        parser.error(str(error))
    settings = Settings(
        command=options.command,
        profile=Profile(options.profile),
        share_network=options.share_network,
        trap_opens=options.trap_opens,
        log=options.kernel_log,
        devices=devices,
    )
    try:
        return Machine(settings).run()
    except (MachineError, OSError) as error:  # an OSError: the host lacks a resource, such as fds or inotify instances
        print(f"luoemu: {error}", file=sys.stderr)
        return FAILED
