"""What each of luoctl's commands does: ask luod, print the answer, return the exit status.

`luod.ctl.main` reads the command line and catches every LuodError and OSError.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from luod.ctl import admin, next_kernel
from luod.ctl.exits import Exit, kind
from luod.ctl.output import Output, counted, escaped
from luod.errors import DaemonUnreachable, LiveUpdateBroken, LuodError, Refused

if TYPE_CHECKING:
    from luod.ctl.progress import View


def status(arguments: Namespace, output: Output) -> Exit:
    """`luoctl status`"""
    found = admin.status(arguments.admin_socket)
    if output.json:
        members = asdict(found)
        output.object({"luod": members.pop("version"), **members})
        return Exit.DONE
    kernel = "not loaded"
    if found.kernel_loaded:
        kernel = "loaded" if found.command_line is None else f"loaded, command line: {escaped(found.command_line)}"
    stuck = [("stuck", f"{escaped(entry.name)}: {escaped(entry.reason)}") for entry in found.stuck]
    held = [("held", f"{counted(found.held_files, 'file')}, which an update would lose")] if found.held_files else []
    left = found.restore_seconds_left
    deadline = [] if left is None else [("reaped", f"in {left:.0f} s, what nobody has claimed by then")]
    output.facts(
        [
            ("luod", escaped(found.version)),
            ("state", escaped(found.state) if found.state != "broken" else f"broken: {LiveUpdateBroken.hint}"),
            ("boot", str(found.boot)),
            ("kernel", kernel),
            ("outgoing", f"{found.sessions} held for the next kernel"),
            ("incoming", f"{found.waiting} waiting, {found.retrieved} retrieved and not finished, {found.torn} torn"),
            ("following", counted(found.participants, "participant")),
            *held,
            *deadline,
            *stuck,
            ("policy", _policy(found)),
            *_problems(found),
        ]
    )
    return Exit.DONE


def _problems(found: admin.Status) -> list[tuple[str, str]]:
    lines = [
        ("state dir", f"{escaped(each.path)}: {escaped(each.what)}; {escaped(each.remedy)}")
        for each in found.state_directory
    ]
    for each in found.registry:
        kept = f" (kept: {escaped(each.path)})" if each.path else ""
        lines.append(("registry", f"{escaped(each.what)}{kept}; {escaped(each.remedy)}"))
    return lines


def _policy(found: admin.Status) -> str:
    if found.policy_error is not None:
        return f"BAD, not in force: {escaped(found.policy_error)}"
    return "the defaults" if found.policy_file is None else escaped(found.policy_file)


def list_(arguments: Namespace, output: Output) -> Exit:
    """`luoctl list`"""
    # Not above: what sessions are made of need not be there for the other commands, and start-up counts.
    from luod.client import Client

    found = Client(arguments.socket).sessions()
    if output.json:
        output.object({"sessions": [asdict(session) for session in found]})
        return Exit.DONE
    rows = [(s.name, str(s.owner), s.direction, s.state) for s in found]
    output.table(("NAME", "OWNER", "DIRECTION", "STATE"), [[escaped(cell) for cell in row] for row in rows])
    return Exit.DONE


def show(arguments: Namespace, output: Output) -> Exit:
    """`luoctl show`"""
    from luod.ctl.inspect import show

    return show(arguments, output)


def load(arguments: Namespace, output: Output) -> Exit:
    """`luoctl load`"""
    with next_kernel.given(arguments) as image:
        assert image is not None
        _load(arguments, image)
        command_line, unified = image.command_line, image.unified
    if output.json:
        initrds = arguments.initrd or []
        output.object(
            {
                "kernel": arguments.kernel,
                "initrd": initrds[0] if initrds else None,
                "initrds": initrds,
                "command_line": command_line,
            }
        )
    else:
        what = f"the kernel in {escaped(arguments.kernel)}" if unified else escaped(arguments.kernel)
        output.line(f"loaded {what}, command line: {escaped(command_line)}")
    return Exit.DONE


def _load(arguments: Namespace, image: next_kernel.NextKernel) -> None:
    admin.load_kernel(
        arguments.admin_socket,
        image.kernel,
        image.initrd,
        image.command_line,
        ignore_findings=arguments.ignore_finding,
    )


def check(arguments: Namespace, output: Output) -> Exit:
    """`luoctl check`: of the files that are given, or of what is loaded."""
    from luod.ctl import findings

    path = arguments.admin_socket
    with next_kernel.given(arguments) as image:
        if image is None:
            checked = admin.check(path, None, None, "")
        else:
            checked = admin.check(path, image.kernel, image.initrd, image.command_line)
    if output.json:
        output.object(asdict(checked))
    else:
        findings.show(output, checked.findings)
        what = "the next kernel" if checked.release is None else f"Linux {escaped(checked.release)}"
        output.line(f"an update into {what} is refused" if checked.refused else f"nothing keeps luod from {what}")
    return Exit.REFUSED if checked.refused else Exit.DONE


def update(arguments: Namespace, output: Output) -> Exit:
    """`luoctl update`: shows how it goes on. When it goes well the jump ends this process too."""
    from luod.ctl.progress import view

    with next_kernel.given(arguments) as image, view(output) as shown:
        if image is not None:
            # Before it is loaded, so that a kernel that is refused takes no other's place.
            checked = admin.check(
                arguments.admin_socket,
                image.kernel,
                image.initrd,
                image.command_line,
                skip_unready=arguments.skip_unready,
                ignore_findings=arguments.ignore_finding,
            ).findings
            refusals = [finding for finding in checked if finding.refuses]
            if arguments.dry_run:
                progress = admin.Progress("checked", findings=checked)
                shown.show(progress)
                return Exit.REFUSED if progress.refused else Exit.DONE
            if refusals:
                names = ", ".join(finding.name for finding in refusals)
                forcing = f"--ignore-finding {refusals[0].name} updates regardless"
                hint = f"{refusals[0].remedy}; luoctl check tells all, {forcing}"
                raise Refused(f"{names}: {refusals[0].what}", hint=hint)
            _load(arguments, image)
        return _follow(arguments, shown)


def _follow(arguments: Namespace, shown: View) -> Exit:
    state = ""
    refused = False
    replies = admin.update(
        arguments.admin_socket,
        deadline=arguments.deadline,
        skip_unready=arguments.skip_unready,
        dry_run=arguments.dry_run,
        ignore_findings=arguments.ignore_finding,
    )
    try:
        for progress in replies:
            state = progress.state
            refused = progress.refused
            shown.show(progress)
    except DaemonUnreachable:
        # The connection ends with the machine.
        if state != "jumping":
            raise
    if refused:
        return Exit.REFUSED
    if state in ("jumping", "checked"):
        return Exit.DONE
    if state == "cancelled":
        return Exit.CANCELLED
    raise LuodError(
        f"luod ended the update in state {state!r}", hint="nothing is lost; see luoctl status, and luod's log"
    )


def abort(arguments: Namespace, output: Output) -> Exit:
    """`luoctl abort`"""
    admin.abort(arguments.admin_socket)
    if output.json:
        output.object({"aborted": True})
    else:
        output.line("the update is cancelled, and everybody resumes")
    return Exit.DONE


def discard(arguments: Namespace, output: Output) -> Exit:
    """`luoctl discard`"""
    path, force = arguments.admin_socket, arguments.force
    return _each(_workloads(arguments.session), lambda name: admin.discard(path, name, force=force), output)


def carry_over(arguments: Namespace, output: Output) -> Exit:
    """`luoctl carry-over`"""
    names = arguments.session
    if arguments.all:
        from luod.client import Client

        found = Client(arguments.socket).sessions()
        states = ("waiting", "carrying_over")
        names = [s.name for s in found if s.direction == "incoming" and s.state in states and s.name not in names]
        names = [*arguments.session, *names]
        if not names and not output.json:
            output.line("no incoming session waits")
    return _each(_workloads(names), lambda name: admin.carry_over(arguments.admin_socket, name), output)


def release(arguments: Namespace, output: Output) -> Exit:
    """`luoctl release`"""
    from luod.ipc.client import sessions
    from luod.ipc.client.connection import TIMEOUT, perform
    from luod.ipc.names import SESSIONS_SOCKET

    path = arguments.socket or SESSIONS_SOCKET

    def give_up(name: str) -> str:
        released, still_open = perform(
            sessions.give_up(name, arguments.direction, force=arguments.force), path, TIMEOUT
        )
        report = f"released {', '.join(released)}"
        if still_open:
            report += f"; another process has {', '.join(still_open)} open: end it, or the kernel carries that on"
        return report

    return _each(_workloads(arguments.session), give_up, output)


def stop(arguments: Namespace, output: Output) -> Exit:
    """`luoctl stop`"""
    lost = admin.stop(arguments.admin_socket, drop=arguments.drop)
    if output.json:
        output.object({"stopped": True, "lost": list(lost)})
    else:
        for what in lost:
            output.line(f"lost: {escaped(what)}")
        output.line("luod is stopped")
    return Exit.DONE


def _workloads(names: Iterable[str]) -> list[str]:
    """`names`, each once, and without the parts NAME#GENERATION of a workload NAME that is among them."""
    given = list(dict.fromkeys(names))
    return [name for name in given if not (name.rpartition("#")[2].isdecimal() and name.rpartition("#")[0] in given)]


def _each(names: Iterable[str], do: Callable[[str], str], output: Output) -> Exit:
    """Prints what there is to say of each session; also after one for which it fails."""
    failure: LuodError | None = None
    for name in names:
        try:
            report = do(name)
        except LuodError as error:
            if failure is not None:
                output.failure(kind(failure), str(failure), failure.hint)
            failure = error
            continue
        if output.json:
            output.object({"session": name, "report": report})
        else:
            output.line(f"{escaped(name)}: {escaped(report) or 'done'}")
    if failure is not None:
        raise failure
    return Exit.DONE
