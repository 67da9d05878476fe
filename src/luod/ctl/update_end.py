"""How an update ended, judged from luod's status and timeline. The timeline crosses the kexec, so an id is enough.

It makes no calls: `luoctl wait --update` polls luod.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from luod.ctl import timeline
from luod.ctl.exits import Exit
from luod.ctl.output import counted, escaped
from luod.errors import LiveUpdateBroken
from luod.frozen import frozen

if TYPE_CHECKING:
    from luod.ipc.types.admin import Status, UpdateTimes

_BEFORE_THE_KEXEC = ("preparing", "freezing", "jumping")


@frozen
class Verdict:
    """`exit`: the end, None while the update may still succeed. `text` says what happened, or what is missing."""

    exit: Exit | None
    text: str


def judge(update: str, status: Status, times: UpdateTimes | None) -> Verdict:
    """Returns how the update ended. `times` was read after `status`, None before the first update."""
    if status.state == "broken":
        what = "this kernel could not take over what was preserved, and the sessions are lost"
        return Verdict(Exit.BROKEN, f"{what}: {LiveUpdateBroken.hint}")
    if times is None or times.update != update:
        known = "" if times is None else f"; the last one is {escaped(times.update)}, {escaped(times.state)}"
        return Verdict(Exit.NOT_FOUND, f"luod knows no update {escaped(update)}{known}")
    if times.state == "cancelled":
        reason = f": {escaped(times.reason)}" if times.reason else ""
        return Verdict(Exit.CANCELLED, f"{timeline.headline(times)}{reason}; the old kernel runs on")
    if times.state in _BEFORE_THE_KEXEC or (times.state == "restoring" and times.now is None):
        if times.now is not None and status.state in _BEFORE_THE_KEXEC:
            return Verdict(None, f"the update is {escaped(times.state)}")
        text = "the machine booted without a kexec of luod"
        if times.arrived is None:
            return Verdict(Exit.NOT_UPDATED, f"nothing of the update reached this kernel: {text}, or lost its sessions")
        return Verdict(Exit.NOT_UPDATED, f"{text} before its sessions were restored")
    if times.state == "restoring":
        left = f"{status.waiting} waiting, {status.retrieved} retrieved and not finished, {status.torn} torn"
        return Verdict(None, f"incoming sessions: {left}")
    lost = [session for session in times.sessions if session.standing == "torn"]
    torn = f", {counted(len(lost), 'session')} torn: {', '.join(escaped(each.name) for each in lost)}" if lost else ""
    return Verdict(Exit.DONE, timeline.headline(times) + torn)
