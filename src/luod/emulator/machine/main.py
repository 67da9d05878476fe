"""`luoemu`: runs a command as the init of an emulated machine whose kernel has live update.

This is only the command line; the machine is `machine.Machine`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from luod.arguments import Parser, UsageError, report
from luod.emulator.machine.faults import MachineError
from luod.emulator.machine.hardware import DeviceSettings
from luod.emulator.machine.machine import FAILED, Machine, Settings
from luod.emulator.model.profile import KvmRules, Profile
from luod.version import __version__

_EPILOG = """\
COMMAND is the machine's init. It runs again after every kexec, with LUOEMU_BOOT=2, 3, ... in its environment.
LUOEMU_KERNEL is the path of a kernel image to load, LUOEMU_PROFILE the profile, as in the file
/run/luoemu/profile. The image with -no-vfio appended to its name is a kernel that cannot retrieve devices.

exit status:
  the status of init when it exits, or 128+N after signal N
  0    something in the machine halted, restarted or powered off
  2    usage
  125  the machine failed
"""


def parser() -> Parser:
    """Returns the parser."""
    top = Parser(prog="luoemu", description="Runs a command in an emulated machine whose kernel has live update.")
    top.add_argument("--version", action="version", version=f"luoemu {__version__}", help="print the version")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    run: Parser = verbs.add_parser(
        "run",
        help="boot a machine",
        description="Boots a machine with COMMAND as its init.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.verbs["run"] = run
    run.add_argument(
        "--profile",
        choices=[profile.value for profile in Profile],
        default=Profile.MAINLINE.value,
        help="mainline: the behaviour of Linux 7.3; document: that of the kernel's document; next: with what is posted "
        "(default: mainline)",
    )
    run.add_argument(
        "--kvm-rules",
        choices=[rules.value for rules in KvmRules],
        help="preserve VMs and guest_memfd as the KVM series does: as its version 4, or by its newest documentation; "
        "memfds named kvm-vm and kvm-gmem stand in for the files",
    )
    run.add_argument(
        "--share-network",
        action="store_true",
        help="use the host's network; note that kexec-tools takes every interface down before a kexec",
    )
    run.add_argument("--trap-opens", action="store_true", help="trap open(2) instead of using FUSE")
    run.add_argument("--kernel-log", action="store_true", help="write the log of the emulated kernel to stderr")
    devices = run.add_argument_group("devices", "PCI devices of the machine; they need FUSE")
    devices.add_argument(
        "--vfio",
        action="append",
        default=[],
        metavar="ADDRESS[,OPTION…]",
        help="add a device, such as 0000:01:00.0,msix=8; may be repeated. Options: vendor=, device=, class=, "
        "bars=16K+1M, msix=, msi=, group=, display, vf-of=ADDRESS, driver=NAME, reset=works|none|fails-later, "
        "acs-quirk",
    )
    devices.add_argument(
        "--devices", metavar="FILE", help="add the devices of a TOML file: a table for each address, with these options"
    )
    devices.add_argument(
        "--vfio-rules",
        choices=["v2", "v5"],
        help="preserve devices as the kernel's document says (v2) or as the latest posted series does (default: v2)",
    )
    devices.add_argument(
        "--iommufd-preservation", action="store_true", help="add the posted series that preserves iommufd"
    )
    run.add_argument("command", nargs="+", metavar="COMMAND", help="init and its arguments; -- may precede it")
    run.takes_command = True
    return top


def _devices(options: argparse.Namespace) -> DeviceSettings | None:
    """Returns the devices of the options. Raises ValueError, with a message for the user, for an invalid one."""
    if not options.vfio and not options.devices:
        for name, given in (
            ("--vfio-rules", options.vfio_rules is not None),
            ("--iommufd-preservation", options.iommufd_preservation),
        ):
            if given:
                raise ValueError(f"{name} is of devices: add --vfio or --devices")
        return None
    from luod.emulator.machine import device_config
    from luod.emulator.model.vfio.hardware.board import check
    from luod.emulator.model.vfio.hardware.description import parse_device
    from luod.emulator.model.vfio.rules import RULES

    descriptions = [parse_device(text) for text in options.vfio]
    if options.devices:
        descriptions += device_config.read(options.devices)
    check(descriptions)
    return DeviceSettings(descriptions, RULES[options.vfio_rules or "v2"], options.iommufd_preservation)


def main(arguments: Sequence[str] | None = None, *, init: Callable[[Mapping[str, str]], NoReturn] | None = None) -> int:
    """Runs luoemu with `arguments`, those of the process by default; returns its exit status.

    `init` runs in place of COMMAND, in a fork of this process for each boot: `luod.testing` starts no Python then. It
    is given init's environment, and must set it.
    """
    try:
        settings = _settings(sys.argv[1:] if arguments is None else arguments)
        return Machine(dataclasses.replace(settings, init=init)).run()
    except UsageError as error:
        report("luoemu", str(error), usage=error.usage, hint=error.hint)
        return 2
    except (MachineError, OSError) as error:  # an OSError: the host lacks something, such as fds or inotify instances
        report("luoemu", str(error))
        return FAILED


def _settings(arguments: Sequence[str]) -> Settings:
    top = parser()
    given = top.parse(arguments)
    run = top.verbs["run"]
    if (given.vfio or given.devices) and given.trap_opens:
        run.error("devices need FUSE: leave out --trap-opens")
    try:
        devices = _devices(given)
    except ValueError as error:
        run.error(str(error))
    return Settings(
        command=given.command,
        profile=Profile(given.profile),
        kvm=None if given.kvm_rules is None else KvmRules(given.kvm_rules),
        share_network=given.share_network,
        trap_opens=given.trap_opens,
        log=given.kernel_log,
        devices=devices,
    )
