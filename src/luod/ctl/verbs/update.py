"""`luoctl update`: shows the progress of an update. A successful update ends this process with the kexec."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Final

from luod.arguments import Parser, seconds
from luod.ctl import options
from luod.ctl.exits import Exit
from luod.ctl.output import Output

if TYPE_CHECKING:
    from luod.ctl.admin import NextKernel
    from luod.ctl.progress import View
    from luod.ipc.types.admin import Progress

SUMMARY = "update the kernel and preserve all sessions"
DESCRIPTION = (
    "Asks every participant to get ready, then executes the next kernel (kexec): the given one, or the loaded one. "
    "This machine restarts; sessions are preserved. ^C cancels the update, as `luoctl abort` does."
)

_KEXEC_SECONDS: Final = 60.0
"""The time for a luod that ended during the kexec to be started again, and to undo the update."""


def arguments(parser: Parser) -> None:
    options.image(parser, required=False)
    parser.add_argument(
        "--deadline",
        type=seconds,
        metavar="SECONDS",
        help="time for participants in each phase; time for the declared bytes is added (default: 30)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show participants and findings without starting the update"
    )
    parser.add_argument(
        "--skip-unready",
        action="store_true",
        help="continue without participants that are late or have ended; their sessions cannot be restored",
    )
    parser.add_argument(
        "--unless-current",
        action="store_true",
        help="do nothing, with status 0, if the next kernel is the running one (by its build id) with its command line",
    )
    parser.add_argument(
        "--detach",
        action="store_true",
        help="end with status 0 once all participants are ready, a second before guests are frozen; "
        "`luoctl wait --update ID` then waits for the end",
    )
    options.way(parser)
    options.ignore_finding(parser)


def run(given: Namespace, output: Output) -> Exit:
    from luod.ctl import admin, next_kernel
    from luod.ctl.progress import view

    with next_kernel.given(given) as image, view(output) as shown:
        if given.unless_current and admin.check(given.admin_socket, image, way=given.way).current:
            if output.json:
                output.object({"state": "current"})
            else:
                output.line("nothing to do: the next kernel runs already")
            return Exit.DONE
        if image is not None:
            # Checked before it is loaded, so that a refused kernel does not replace the loaded one.
            progress = _check(given, image)
            if given.dry_run:
                shown.show(progress)
                return Exit.REFUSED if progress.refused else Exit.DONE
            _refuse(progress)
            admin.load_kernel(given.admin_socket, image, ignore_findings=given.ignore_finding)
        return _follow(given, shown, output)


def _check(given: Namespace, image: NextKernel) -> Progress:
    from luod.ctl import admin
    from luod.ipc.types.admin import Progress

    checked = admin.check(
        given.admin_socket,
        image,
        skip_unready=given.skip_unready,
        ignore_findings=given.ignore_finding,
        way=given.way,
    )
    return Progress(
        "checked",
        participants=checked.participants,
        torn=checked.torn,
        findings=tuple(checked.findings),
        way=given.way,
    )


def _refuse(progress: Progress) -> None:
    """Raises Refused if a finding refuses the update, with the first of them and the names of the others."""
    from luod.errors import Refused

    if refusals := [finding for finding in progress.findings if finding.refuses]:
        first, *others = refusals
        more = f"; and {', '.join(finding.name for finding in others)}" if others else ""
        raise Refused(
            f"{first.name}: {first.what}{more}",
            hint=f"{first.remedy}; `luoctl check` shows all findings; --ignore-finding {first.name} proceeds despite "
            "this one",
        )


def _follow(given: Namespace, shown: View, output: Output) -> Exit:
    from luod.ctl import admin
    from luod.errors import DaemonUnreachable, LuodError

    last: Progress | None = None
    replies = admin.update(
        given.admin_socket,
        deadline=given.deadline,
        skip_unready=given.skip_unready,
        dry_run=given.dry_run,
        ignore_findings=given.ignore_finding,
        way=given.way,
        detach=given.detach,
    )
    try:
        for progress in replies:
            last = progress
            shown.show(progress)
    except DaemonUnreachable:
        if last is None or last.state != "jumping":
            raise
        if last.way != "systemd":
            return _came_back(given, last.update, output)
        # systemd stops luod before the kexec.
    except KeyboardInterrupt:
        if not output.json:
            late = last is not None and last.state == "jumping"
            output.line(f"interrupted: luod {'cannot cancel the update any more' if late else 'cancels the update'}")
        raise
    state = "" if last is None else last.state
    if last is not None and last.refused:
        return Exit.REFUSED
    if state in ("jumping", "checked", "prepared"):
        return Exit.DONE
    if state == "cancelled":
        return Exit.CANCELLED
    raise LuodError(
        f"luod ended the update in state {state!r}", hint="nothing is lost; see `luoctl status` and luod's log"
    )


def _came_back(given: Namespace, update: str, output: Output) -> Exit:
    """Returns the exit status of an update if luod ended during the kexec. A kexec that takes place ends luoctl."""
    from luod.ctl.verbs import wait

    found = wait.poll(wait.End(given.admin_socket, update), _KEXEC_SECONDS, output)
    return Exit.UNREACHABLE if found is Exit.TIMED_OUT else found
