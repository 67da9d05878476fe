"""The modules that programs import after their start, and do not name: for processes that fork these programs.

`luod.testing.starter` imports all of it, the agent of a real kernel what a program is about to need. Any other module
is imported by the program that needs it.
"""

from __future__ import annotations

from typing import Final

_LUOD: Final = """
luod.daemon.serve luod.daemon.later luod.daemon.rooms luod.daemon.admin
luod.daemon.store.state_directory luod.ipc.interfaces.admin luod.ipc.interfaces.sessions luod.ipc.interfaces.updates
luod.ipc.server.introspection luod.daemon.preflight.check luod.daemon.preflight.rules luod.daemon.updates.coordinator
luod.daemon.updates.memory_checks luod.daemon.updates.progress luod.image.initrd luod.image.boot_config
luod.image.loaders luod.daemon.sessions.adoption concurrent.futures.thread tomllib
"""
_LUOCTL: Final = """
luod.ctl.admin luod.ctl.findings luod.ctl.next_kernel luod.ctl.progress luod.ctl.workloads luod.ctl.timeline
"""
LATER: Final = {"luod.daemon.main": _LUOD.split(), "luod.ctl.main": _LUOCTL.split()}
"""The modules that a program imports later, by the module that is run."""


def later(module: str) -> list[str]:
    """Returns what the program `module` imports later: of luod, also what it imports when it has nothing to do.

    For luod it imports `luod.daemon.later`.
    """
    names = list(LATER.get(module, ()))
    if module == "luod.daemon.main":
        from luod.daemon import later as rooms

        names += [*rooms.MODULES, *rooms.FURTHER]
    return names
