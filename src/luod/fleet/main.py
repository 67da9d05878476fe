"""The `luod-fleet` command: rehearses a roll-out, and shows its report."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib.util import find_spec

from luod.arguments import Parser, UsageError, report
from luod.errors import BadInput, LuodError
from luod.version import __version__

_EPILOG = """\
exit status:
  0  every host is updated, or had nothing to do
  1  the rehearsal itself failed
  2  usage
  4  hosts are refused, incomplete, lost or untouched
"""
_BAD = ("refused", "incomplete", "lost", "untouched")


def parser() -> Parser:
    """Returns the parser."""
    import argparse

    top = Parser(
        prog="luod-fleet",
        description="Rehearses a roll-out of Ansible on emulated hosts.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"luod-fleet {__version__}", help="print the version")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    rehearse: Parser = verbs.add_parser(
        "rehearse",
        help="run a playbook on emulated hosts of an inventory",
        description="Starts an emulated host for each host of the inventory, runs the playbook on them by Ansible, and "
        "reports what became of each host. It needs no root. Nothing on a real host is touched: each connection of "
        "Ansible by ssh leads to an emulated host. Tasks on localhost do run here.",
    )
    top.verbs["rehearse"] = rehearse
    rehearse.add_argument("-i", "--inventory", required=True, metavar="PATH", help="the inventory, as for Ansible")
    rehearse.add_argument("--faults", metavar="FILE", help="a TOML file with faults of hosts")
    rehearse.add_argument(
        "--kernel",
        default="/boot/vmlinuz",
        metavar="PATH",
        help="where hosts have the next kernel (default: %(default)s)",
    )
    rehearse.add_argument(
        "--initrd", action="append", default=[], metavar="PATH", help="where they have an initial RAM disk; repeatable"
    )
    rehearse.add_argument("--limit", metavar="PATTERN", help="only these hosts, as for Ansible")
    rehearse.add_argument("--guests", type=int, default=2, metavar="N", help="guests of each host (default: 2)")
    rehearse.add_argument(
        "--guest-memory", type=int, default=1, metavar="MIB", help="memory of each guest in MiB (default: 1)"
    )
    rehearse.add_argument("--runs", type=int, default=1, metavar="N", help="run the playbook N times (default: 1)")
    rehearse.add_argument("--ansible", metavar="DIR", help="the directory of Ansible's programs (default: by PATH)")
    rehearse.add_argument(
        "--share-network", action="store_true", help="give hosts this machine's network, such as to reach a lock server"
    )
    rehearse.add_argument("--json", action="store_true", help="print the report as JSON")
    rehearse.add_argument("-o", "--output", metavar="FILE", help="also write the report as JSON into this file")
    rehearse.add_argument("playbook", help="the playbook")
    rehearse.add_argument("more", nargs="*", metavar="ARGUMENT", help="after --, further arguments of ansible-playbook")
    shown: Parser = verbs.add_parser(
        "report",
        help="show the report of a rehearsal",
        description="Shows the report that `rehearse -o FILE` wrote.",
    )
    top.verbs["report"] = shown
    shown.add_argument("--html", metavar="FILE", help="write it as a page into this file: one file without scripts")
    shown.add_argument("report", metavar="REPORT", help="the report")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs luod-fleet with `arguments`, by default those of the process. Returns the exit status."""
    try:
        given = parser().parse(sys.argv[1:] if arguments is None else arguments)
        return _rehearse(given) if given.verb == "rehearse" else _report(given)
    except UsageError as error:
        report("luod-fleet", str(error), usage=error.usage, hint=error.hint)
        return 2
    except LuodError as error:
        report("luod-fleet", str(error), hint=error.hint)
        return 2 if isinstance(error, BadInput) else 1
    except OSError as error:
        report("luod-fleet", f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
        return 1
    except KeyboardInterrupt:
        return 130


def _rehearse(given: Namespace) -> int:
    if not (find_spec("luod.ctl") and find_spec("luod.daemon")):
        raise LuodError(
            "luod and luoctl are not installed", hint="install the package luod, or luod[daemon,ctl] by pip"
        )
    from luod.fleet import stored, text
    from luod.fleet.rehearsal import Wishes, rehearse
    from luod.fleet.setting import Image

    if min(given.guests, given.guest_memory - 1, given.runs - 1) < 0:
        raise BadInput("a number is too small", hint="--guests from 0, --guest-memory and --runs from 1")
    found = rehearse(
        Wishes(
            given.inventory,
            given.playbook,
            Image(given.kernel, tuple(given.initrd)),
            given.faults,
            given.limit,
            given.guests,
            given.guest_memory << 20,
            given.runs,
            tuple(given.more),
            given.ansible,
            given.share_network,
        )
    )
    if given.output:
        stored.write(given.output, found)
    print(stored.encoded(found) if given.json else "\n".join(text.lines(found)))
    return 4 if any(host.standing in _BAD for host in found.hosts) else 0


def _report(given: Namespace) -> int:
    from luod.fleet import page, stored, text

    found = stored.read(given.report)
    if given.html:
        with open(given.html, "w", encoding="utf-8") as file:
            file.write(page.html(found))
    else:
        print("\n".join(text.lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
