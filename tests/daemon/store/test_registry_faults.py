"""Disks that fail and copies of the registry that tell nothing: no session is lost, luod answers, and says in words why
it knows less. Each is a machine; what is believed of two copies is in test_copies.py.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from luod.daemon.store.copies import understand_file
from luod.daemon.store.journal import pack
from luod.daemon.store.schema import FORMAT, OLDEST_FORMAT
from luod.testing import Machine
from tests.daemon.host import Luod, fill_disk, states
from tests.library import load

_MOUNT = """
import ctypes, sys
source, target, kind, flags, data = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(source.encode(), target.encode(), kind.encode() or None, int(flags), data.encode() or None):
    sys.exit(f"mount {target}: errno {ctypes.get_errno()}")
"""
_DAMAGE = """
import os, sys
for fd in os.listdir(f"/proc/{sys.argv[1]}/fd"):
    path = f"/proc/{sys.argv[1]}/fd/{fd}"
    if os.readlink(path).startswith("/memfd:luod-registry"):
        with open(path, "r+b") as file:
            for at in (0, os.fstat(file.fileno()).st_size // 2):
                file.seek(at)
                file.write(bytes(64))
"""
_READ_ONLY, _REMOUNT, _BIND = 1, 32, 4096


def _row(name: str) -> list[object]:
    """Returns an outgoing session of root's as the registry writes it."""
    return ["outgoing", name, 0, None, 0, 0.0, 0.0, [], "undeclared", False]


def mount(luod: Luod, source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    luod.run_source(_MOUNT, source, target, kind, flags, data)


def fail(luod: Luod, how: str) -> None:
    """Makes writes to the state directory fail."""
    directory = luod.state_directory
    if how == "read-only":
        mount(luod, directory, directory, flags=_BIND)
        mount(luod, "", directory, flags=_BIND | _REMOUNT | _READ_ONLY)
    else:
        fill_disk(luod)


def kill_keep(luod: Luod) -> None:
    luod.kill_both()
    luod.stop()


def kept_aside(luod: Luod, pattern: str) -> list[Path]:
    return sorted(Path(luod.state_directory).glob(pattern))


def finding(luod: Luod, name: str) -> dict[str, Any] | None:
    """Returns a finding of `luoctl check` for the loaded kernel."""
    luod.load()
    result = luod.luoctl("--json", "check", check=False)
    found: list[dict[str, Any]] = [each for each in json.loads(result.stdout)["findings"] if each["name"] == name]
    return found[0] if found else None


@pytest.fixture
def small(machine: Machine, tmp_path: Path) -> Luod:
    """Returns luod, not started, whose state directory is a file system of its own."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return Luod(machine, state_directory=state)


@pytest.mark.parametrize(
    ("size", "how"), [("256k", "full"), ("16k", "full"), ("256k", "read-only"), ("16k", "read-only")]
)
def test_what_luod_alone_holds_outlives_keep_then_serve_on_a_failed_disk(small: Luod, size: str, how: str) -> None:
    """At 16 KiB no space can be reserved."""
    mount(small, "tmpfs", small.state_directory, "tmpfs", data=f"size={size},mode=0700")
    small.start()
    old = small.vmm()
    for number in range(5):
        old.call("create", name=f"old-{number}", slot=f"s{number}")
    fail(small, how)
    kill_keep(small)
    small.start()
    new = small.vmm()
    for number in range(5):
        new.call("create", name=f"new-{number}", slot=f"s{number}")
    old.call("release", session="s0")
    new.program.kill()
    expected = {f"outgoing new-{number}": "held" for number in range(5)}
    expected |= {f"outgoing old-{number}": "dropped" for number in range(1, 5)}
    assert states(small.vmm()) == expected
    for _ in range(2):
        small.kill_serve()
        assert states(small.vmm()) == expected
    (problem,) = small.status()["state_directory"]
    assert ("read-only" if how == "read-only" else "full") in problem["what"]
    refusal = finding(small, "state-directory")
    assert refusal is not None
    assert refusal["severity"] == "refusal"
    assert small.state_directory in refusal["what"]
    assert small.state_directory in refusal["remedy"]
    for command in (("update", "--dry-run"), ("update",)):
        refused = small.luoctl(*command, check=False)
        assert "state-directory" in refused.text + refused.stderr.decode()
    assert 'luod_problems{of="state_directory"} 1.0' in small.luoctl("metrics").text


def test_a_disk_that_fills_up_fails_no_change_of_the_registry(small: Luod) -> None:
    """The space was taken before."""
    mount(small, "tmpfs", small.state_directory, "tmpfs", data="size=256k,mode=0700")
    supervisor = small.start()
    fail(small, "full")
    vmm = small.vmm()
    for number in range(20):
        vmm.call("create", name=f"vm-{number}", slot=f"s{number}")
    small.load()
    kill_keep(small)
    assert "registry-file" not in supervisor.stderr
    small.start()
    assert len(states(vmm)) == 20


def test_a_damaged_file_is_kept_said_and_refuses_updates(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    kill_keep(luod)
    Path(luod.state_directory, "registry").write_bytes(b"not a registry")
    supervisor = luod.start()
    (aside,) = kept_aside(luod, "registry.damaged-*")
    assert aside.read_bytes() == b"not a registry"
    (problem,) = luod.status()["registry"]
    assert problem["path"] == str(aside)
    assert "is damaged" in problem["what"]
    assert "is damaged" in luod.luoctl("status").text
    refusal = finding(luod, "registry-incomplete")
    assert refusal is not None
    assert str(aside) in refusal["remedy"]
    luod.kill_serve()
    assert luod.status()["registry"] == [problem]
    luod.update(ignore=("registry-incomplete", "contents-undeclared"))
    assert "registry-doubt" in supervisor.stderr
    luod.start()
    assert luod.status()["registry"] == []


def test_a_file_of_a_format_that_is_too_old_is_kept_and_said(luod: Luod) -> None:
    kill_keep(luod)
    number = OLDEST_FORMAT - 1
    content = pack(5, b'{"format":%d}' % number, whole=True)
    Path(luod.state_directory, "registry").write_bytes(content)
    luod.start()
    (problem,) = luod.status()["registry"]
    assert f"has format {number}, which an older luod wrote" in problem["what"]
    assert Path(problem["path"]).read_bytes() == content
    assert finding(luod, "registry-incomplete") is not None


def test_a_file_of_another_machine_is_kept_said_and_not_believed(luod: Luod) -> None:
    luod.vmm().call("create", name="vm", slot="s")
    kill_keep(luod)
    path = Path(luod.state_directory, "registry")
    content = path.read_bytes()
    told = understand_file(content, "").record
    assert told is not None
    if not told.machine:
        pytest.skip("this host has no machine-id")
    other = json.dumps(
        {"format": FORMAT, "boot": 4, "boot_id": "other", "machine": "f" * 32, "instance": "x",
         "rows": [_row("theirs")]}
    )  # fmt: skip
    path.write_bytes(pack(5, other.encode(), whole=True))
    luod.start()
    (problem,) = luod.status()["registry"]
    assert "of another machine" in problem["what"]
    assert f"{'f' * 32}" in problem["what"]
    assert states(luod.vmm()) == {}
    assert finding(luod, "registry-incomplete") is None


def test_a_file_of_another_boot_is_said(luod: Luod) -> None:
    kill_keep(luod)
    other = {
        "format": FORMAT,
        "boot": 4,
        "boot_id": "other",
        "rows": [_row("vm")],
    }
    Path(luod.state_directory, "registry").write_bytes(pack(5, json.dumps(other).encode(), whole=True))
    supervisor = luod.start()
    (problem,) = luod.status()["registry"]
    assert "of another boot" in problem["what"]
    assert states(luod.vmm()) == {}
    assert finding(luod, "registry-incomplete") is None
    luod.stop()
    assert re.search("session-lost name=vm", supervisor.stderr)


def test_a_damaged_memory_is_said_and_its_file_is_believed(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    luod.run_source(_DAMAGE, luod.supervisor_pid)
    luod.kill_serve()
    assert states(vmm) == {"outgoing vm": "held"}
    (problem,) = luod.status()["registry"]
    assert "its file was believed" in problem["what"]
    assert Path(problem["path"]).exists()
    assert finding(luod, "registry-incomplete") is None
    luod.kill_serve()
    assert states(vmm) == {"outgoing vm": "held"}
    assert luod.status()["registry"] == [problem]


def test_sessions_of_which_no_copy_tells_are_held_for_root(luod: Luod) -> None:
    user, root = luod.vmm(1000), luod.vmm()
    user.call("create", name="vm", slot="s")
    user.program.kill()
    luod.run_source(_DAMAGE, luod.supervisor_pid)
    Path(luod.state_directory, "registry").write_bytes(b"nor this")
    luod.kill_serve()
    assert states(root) == {"outgoing vm": "held"}
    assert states(luod.vmm(1000)) == {}
    problems = [problem["what"] for problem in luod.status()["registry"]]
    assert len(problems) == 3
    assert "sessions: 1, stashed files: 0" in problems[-1]
    assert finding(luod, "registry-incomplete") is not None
    assert luod.luoctl("update", check=False).returncode == 4
    for _ in range(2):
        luod.kill_serve()
        assert states(root) == {"outgoing vm": "held"}


@pytest.mark.parametrize("with_file", [True, False])
def test_a_registry_that_comes_along_damaged_does_not_keep_luod_from_answering(luod: Luod, with_file: bool) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    load(luod.machine, vmm)
    luod.run_source(_DAMAGE, luod.supervisor_pid)
    if not with_file:
        Path(luod.state_directory, "registry").unlink()
    with luod.machine.expect_jump():
        vmm.ask("library", call="jump")
    supervisor = luod.start()
    problems = luod.status()["registry"]
    assert "the registry in luod's session is damaged" in problems[0]["what"]
    assert Path(problems[0]["path"]).exists()
    if with_file:
        assert states(luod.vmm()) == {"incoming vm": "waiting"}
        assert luod.status()["boot"] == 2
    else:
        assert states(luod.vmm()) == {}
        assert finding(luod, "registry-incomplete") is not None
    luod.stop()
    assert supervisor.stderr.count("serve-ended") == 0


@pytest.mark.parametrize("kind", ["directory", "dangling link", "zeros", "pipe"])
def test_nothing_in_the_place_of_the_file_keeps_luod_from_starting(luod: Luod, kind: str) -> None:
    path = Path(luod.state_directory, "registry")
    kill_keep(luod)
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("/nonexistent/registry")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(bytes(4096))
    luod.start()
    said = [problem["what"] for problem in luod.status()["registry"]]
    assert bool(said) == (kind != "dangling link")  # Behind that is no registry.
    assert path.is_file()
