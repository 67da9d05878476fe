"""What is imported while guests wait: by luod up to the first session that it hands out, and by a VMM (`luod.client`).

A module that is missing here makes every blackout longer. Import it where it is used, or add it if no start can do
without it; docs/performance.md has what the start costs. Nothing here measures time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from luod.daemon import later
from luod.testing import Machine, eventually
from tests.daemon.host import Luod
from tests.library import ROOT

_ASYNCIO = "import sys; sys.modules['ssl'] = None; import asyncio"
_MOST_AT_ONCE = 8
"""Modules of luod's that one step may import between two turns of the loop."""

LUOD = """
luod luod.daemon luod.daemon.clock luod.daemon.core luod.daemon.journald luod.daemon.later luod.daemon.log
luod.daemon.main luod.daemon.memory_grants luod.daemon.options luod.daemon.policy luod.daemon.policy.current
luod.daemon.policy.file luod.daemon.policy.membership luod.daemon.policy.rules luod.daemon.preflight
luod.daemon.preflight.kinds luod.daemon.refusals luod.daemon.replies luod.daemon.run_state luod.daemon.serve
luod.daemon.sessions luod.daemon.sessions.changes luod.daemon.sessions.claims luod.daemon.sessions.file_kind
luod.daemon.sessions.finish_check luod.daemon.sessions.held_files luod.daemon.sessions.holders
luod.daemon.sessions.manifests luod.daemon.sessions.names luod.daemon.sessions.overview
luod.daemon.sessions.owner_watch luod.daemon.sessions.service luod.daemon.store luod.daemon.store.copies
luod.daemon.store.doubts luod.daemon.store.entries luod.daemon.store.fd_names luod.daemon.store.fd_store
luod.daemon.store.inherited luod.daemon.store.journal luod.daemon.store.journal_file luod.daemon.store.recovery
luod.daemon.store.registry luod.daemon.store.remains luod.daemon.store.schema luod.daemon.store.state_file
luod.daemon.store.states luod.daemon.store.write_hold luod.daemon.supervisor luod.daemon.supervisor.children
luod.daemon.supervisor.custody luod.daemon.supervisor.ending luod.daemon.supervisor.init_store
luod.daemon.supervisor.notify luod.daemon.supervisor.open_files luod.daemon.supervisor.other_luod
luod.daemon.supervisor.passed_fds luod.daemon.supervisor.protocol luod.daemon.supervisor.requests
luod.daemon.supervisor.serve_process luod.daemon.supervisor.sockets luod.daemon.supervisor.start
luod.daemon.supervisor.supervisor luod.daemon.timeline luod.daemon.timeline.earlier luod.daemon.trust
luod.daemon.updates luod.daemon.updates.follower luod.daemon.updates.participants luod.daemon.updates.transaction
luod.decode luod.errors luod.frozen luod.ipc luod.ipc.errors luod.ipc.framing luod.ipc.interfaces
luod.ipc.interfaces.sessions luod.ipc.interfaces.updates luod.ipc.names luod.ipc.server luod.ipc.server.accepted
luod.ipc.server.admission luod.ipc.server.calls luod.ipc.server.closer luod.ipc.server.connection
luod.ipc.server.foreign_files luod.ipc.server.introspection luod.ipc.server.methods luod.ipc.server.peer
luod.ipc.server.received luod.ipc.server.receiver luod.ipc.server.receiver_process luod.ipc.server.sparing
luod.ipc.server.turns luod.ipc.server.wire luod.ipc.types luod.ipc.types.phases luod.ipc.types.sessions
luod.ipc.types.updates luod.linux luod.liveupdate luod.liveupdate.calls luod.liveupdate.device luod.liveupdate.devices
luod.liveupdate.incoming luod.liveupdate.outgoing luod.liveupdate.ram luod.liveupdate.session luod.manifest
luod.memory luod.memory.cgroup luod.memory.source luod.pci luod.session_name luod.static luod.uapi luod.uapi.iommufd
luod.uapi.liveupdate luod.uapi.memfd luod.uapi.vfio luod.version
"""
"""luod's own modules on the path of its start."""
OTHERS = """
__future__ _json _struct encodings.ascii gc importlib._abc importlib.util json json.decoder json.encoder json.scanner
mmap resource runpy struct termios zlib
"""
"""Other modules on it, beyond those that asyncio imports without ssl."""
CLIENT = """
__future__ _collections _functools _json _operator _socket _sre _struct collections copyreg enum errno fcntl functools
itertools json json.decoder json.encoder json.scanner keyword luod luod.client luod.decode luod.errors luod.frozen
luod.ipc luod.ipc.client luod.ipc.client.connection luod.ipc.client.handle luod.ipc.client.limits
luod.ipc.client.restore luod.ipc.client.sessions luod.ipc.decode luod.ipc.framing luod.ipc.names luod.ipc.types
luod.ipc.types.sessions luod.linux luod.liveupdate luod.liveupdate.calls luod.liveupdate.incoming
luod.liveupdate.session luod.manifest luod.memory luod.memory.cgroup luod.memory.source luod.session_name luod.static
luod.uapi luod.uapi.liveupdate luod.uapi.memfd operator re re._casefix re._compiler re._constants re._parser reprlib
struct types zlib
"""
"""All modules that `import luod.client` adds to those of a Python that does nothing."""


def modules(source: str) -> set[str]:
    """Returns the modules of a fresh Python after `source`."""
    words = [sys.executable, "-c", f"{source}; import sys; print(*sys.modules)"]
    return set(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.split())


def test_a_retrieve_waits_for_these_modules_only(machine: Machine, tmp_path: Path) -> None:
    luod = Luod(machine, tmp_path / "state")
    luod.start()
    luod.vmm().call("create", name="vm", slot="s")
    luod.load()
    luod.force_update()
    python, file = luod.python(), tmp_path / "modules"
    tests = python.readable(ROOT / "tests").parent
    environment = {**python.environment, "PYTHONPATH": f"{python.environment['PYTHONPATH']}{os.pathsep}{tests}"}
    program = python.module("tests.programs.imports", str(file), "--state-directory", luod.state_directory)
    luod.supervisor = machine.spawn(python.module("luod.testing.started", *program), env=environment)
    assert luod.supervisor.ask({})["ready"]
    luod.vmm().call("retrieve_session", name="vm", slot="s")
    machine.signal(luod.serve_pid(), signal.SIGUSR1)
    eventually(file.exists, describe="serve has written its modules")
    found = set(file.read_text().split()) - {"tests", "tests.programs", "tests.programs.imports"}
    ours = {name for name in found if name.partition(".")[0] == "luod"}
    assert sorted(ours - set(LUOD.split())) == []
    assert sorted(found - ours - modules(_ASYNCIO) - set(OTHERS.split())) == []
    assert sorted(set(LUOD.split()) - ours) == [], "these are listed, and not imported"
    # An operator's call does not wait until the rest comes by itself.
    assert luod.status()["retrieved"] == 1


def test_a_vmm_waits_for_these_modules_only() -> None:
    found, allowed = modules("import luod.client") - modules("pass"), set(CLIENT.split())
    assert sorted(found - allowed) == []
    assert sorted(name for name in allowed - found if name.startswith("luod")) == [], (
        "these are listed, and not imported"
    )


def test_what_is_imported_later_comes_in_small_steps() -> None:
    path = "; ".join(f"import {name}" for name in LUOD.split())
    steps = "; ".join(
        f"b = len(sys.modules); import {name}; print({name!r}, sum(m[:5] == 'luod.' for m in list(sys.modules)[b:]))"
        for name in (*later.MODULES, *later.FURTHER)
    )
    words = [sys.executable, "-c", f"import sys; {path}; {steps}"]
    lines = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    assert [line for line in lines if int(line.split()[1]) > _MOST_AT_ONCE] == []


def test_the_rooms_find_all_their_modules_imported() -> None:
    steps = "; ".join(f"import {name}" for name in (*LUOD.split(), *later.MODULES))
    rooms = "import luod.daemon.rooms, luod.daemon.admin, luod.ipc.interfaces.admin"
    assert sorted(modules(f"{steps}; {rooms}") - modules(steps)) == []
