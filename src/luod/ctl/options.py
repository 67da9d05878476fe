"""Options and arguments of several verbs."""

from __future__ import annotations

from luod.arguments import Parser


def image(parser: Parser, *, required: bool) -> None:
    """Adds the options of the next kernel, which `luod.ctl.next_kernel` opens."""
    parser.add_argument(
        "--kernel",
        required=required,
        metavar="FILE",
        help="the image of the next kernel, such as /boot/vmlinuz-7.3.4, or a unified kernel image (UKI)",
    )
    parser.add_argument(
        "--initrd",
        action="append",
        metavar="FILE",
        help="the initial RAM disk of the next kernel; if repeated, the files are concatenated in this order",
    )
    parser.add_argument("--cmdline", metavar="TEXT", help="the whole command line of the next kernel")
    parser.add_argument(
        "--append-cmdline",
        action="append",
        metavar="TEXT",
        help="add TEXT to the command line of the running kernel; may be repeated",
    )
    parser.add_argument(
        "--reuse-cmdline", action="store_true", help="use the command line of the running kernel (the default)"
    )


def ignore_finding(parser: Parser) -> None:
    """Adds the option that ignores refusals of `luoctl check`."""
    parser.add_argument(
        "--ignore-finding",
        metavar="FINDING",
        action="append",
        default=[],
        help="continue despite this refusal of `luoctl check`, and lose what it names; may be repeated",
    )


def way(parser: Parser) -> None:
    """Adds the options of the way in which the next kernel is started."""
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--direct",
        action="store_const",
        const="direct",
        dest="way",
        help="luod starts the next kernel itself; units are not stopped (the default, unless the policy says systemd)",
    )
    ways.add_argument(
        "--systemd",
        action="store_const",
        const="systemd",
        dest="way",
        help="systemd stops all other units while guests run, and then starts the next kernel",
    )


def workloads(parser: Parser, *, optional: bool = False) -> None:
    """Adds the names of workloads."""
    parser.add_argument(
        "session",
        nargs="*" if optional else "+",
        metavar="NAME",
        help="a workload: the sessions NAME and NAME#GENERATION",
    )
