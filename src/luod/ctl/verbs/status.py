"""`luoctl status`"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from luod.arguments import Parser
from luod.ctl.exits import Exit
from luod.ctl.output import WAYS, Output, counted, escaped
from luod.decode import encode
from luod.version import __version__

if TYPE_CHECKING:
    from luod.ipc.types.admin import Status

SUMMARY = "show the state of luod and count its sessions"
DESCRIPTION = "Shows the state of luod, the loaded kernel, the number of sessions, and problems of luod's own files."


def arguments(parser: Parser) -> None:
    parser.add_argument(
        "--nagios",
        action="store_true",
        help="print one line with performance data, and end with the status of a Nagios plugin: 0 to 3",
    )


def run(given: Namespace, output: Output) -> int:
    from luod.ctl import admin

    if given.nagios:
        if given.json:
            given.parser.error("--nagios and --json cannot be combined")
        return _nagios(given, output)
    found = admin.status(given.admin_socket)
    if output.json:
        members = encode(found)
        output.object({"luod": members.pop("version"), **members})
    else:
        output.facts(_facts(found))
    return Exit.DONE


def _nagios(given: Namespace, output: Output) -> int:
    from luod.ctl import admin, nagios
    from luod.errors import DaemonUnreachable, LuodError

    try:
        level, text = nagios.judge(admin.status(given.admin_socket))
    except (LuodError, OSError) as error:
        level = nagios.Level.CRITICAL if isinstance(error, DaemonUnreachable) else nagios.Level.UNKNOWN
        text = nagios.line(level, escaped(str(error)))
    output.line(text)
    return level


def _facts(found: Status) -> list[tuple[str, str]]:
    facts = [
        ("luod", escaped(found.version)),
        ("state", _state(found)),
        ("boot", str(found.boot)),
        ("kernel", _kernel(found)),
        ("outgoing", f"{counted(found.sessions, 'session')} for the next kexec"),
        ("incoming", f"{found.waiting} waiting, {found.retrieved} retrieved and not finished, {found.torn} torn"),
        ("participants", str(found.participants)),
        ("way", WAYS[found.way]),
    ]
    if found.version != __version__:
        restart = (
            f"luod {escaped(found.version)} runs and {__version__} is installed; restart it: systemctl restart luod"
        )
        facts += [("restart", restart)]
    if found.shutdown_lock is not None:
        facts += [("shutdown", _shutdown(found.shutdown_lock))]
    if found.held_files:
        facts += [("stashed", f"{counted(found.held_files, 'file')}; an update loses them")]
    if found.restore_seconds_left is not None:
        facts += [("deadline", f"unclaimed incoming sessions are discarded in {found.restore_seconds_left:.0f} s")]
    facts += [("stuck", f"{escaped(each.name)}: {escaped(each.reason)}") for each in found.stuck]
    facts += [("policy", _policy(found))]
    for each in found.state_directory:
        facts += [("state dir", f"{escaped(each.path)}: {escaped(each.what)}; {escaped(each.remedy)}")]
    for each in found.fd_store:
        facts += [("fd store", f"{escaped(each.path)}: {escaped(each.what)}; {escaped(each.remedy)}")]
    for each in found.undo:
        unit = f"{escaped(each.path)}: " if each.path else ""
        facts += [("not undone", f"{unit}{escaped(each.what)}; {escaped(each.remedy)}")]
    for each in found.registry:
        kept = f" (kept: {escaped(each.path)})" if each.path else ""
        facts += [("registry", f"{escaped(each.what)}{kept}; {escaped(each.remedy)}")]
    return facts


def _state(found: Status) -> str:
    if found.state != "broken":
        return escaped(found.state)
    from luod.errors import LiveUpdateBroken

    return f"broken: {LiveUpdateBroken.hint}"


def _kernel(found: Status) -> str:
    if not found.kernel_loaded:
        return "not loaded"
    return "loaded" if found.command_line is None else f"loaded, command line: {escaped(found.command_line)}"


def _shutdown(lock: str) -> str:
    if lock == "held":
        return "inhibited while luod holds sessions, also `systemctl kexec` and `reboot`"
    return f"NOT inhibited: {escaped(lock)}"


def _policy(found: Status) -> str:
    if found.policy_error is not None:
        return f"NOT IN FORCE, the file has an error: {escaped(found.policy_error)}"
    return "built-in defaults" if found.policy_file is None else escaped(found.policy_file)
