"""The modules that programs import after their start, and do not name: for processes that fork these programs.

`luod.testing.starter` imports all of it, the agent of a real kernel what a program is about to need. Any other module
is imported by the program that needs it.
"""

from __future__ import annotations

from typing import Final

_LUOD: Final = """
luod.daemon.serve luod.daemon.supervisor.start luod.ipc.interfaces.sessions luod.ipc.interfaces.updates
luod.ipc.server.introspection concurrent.futures.thread
"""
_LUOCTL: Final = """
luod.ctl.admin luod.ctl.findings luod.ctl.next_kernel luod.ctl.progress luod.ctl.workloads luod.ctl.timeline
"""
_LATER: Final = {"luod.daemon.main": _LUOD.split(), "luod.ctl.main": _LUOCTL.split()}
"""The modules that a program imports later, by the module that is run; luod's without those of `luod.daemon.later`."""


def later(module: str) -> list[str]:
    """Returns what the program `module` imports later: of luod, also what it imports when it has nothing to do.

    For luod it imports `luod.daemon.later`.
    """
    names = list(_LATER.get(module, ()))
    if module == "luod.daemon.main":
        from luod.daemon import later as rooms

        names += [*rooms.MODULES, *rooms.FURTHER]
    return names
