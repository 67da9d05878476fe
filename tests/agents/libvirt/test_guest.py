"""A paused domain that libvirt does not continue: which answers mean that it is tried again at once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from luod.agents.libvirt import description, guest, paths
from luod.agents.libvirt.domain import DomainQemu
from luod.agents.libvirt.guest import Domain
from luod.aio import AsyncClient
from luod.errors import LibvirtFailed, QemuLate
from luod.linux import Fd
from luod.liveupdate import memory

XML = "<domain type='kvm'><name>vm</name><memory unit='KiB'>4</memory></domain>"
LOCKED = "unable to execute QEMU command 'cont': Failed to get \"write\" lock"


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the program that stands for virsh, to be written."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(paths, "FOLDER", str(tmp_path / "run"))
    monkeypatch.setattr(guest, "_AGAIN_PAUSE", 0.0)
    program = tmp_path / "virsh"
    program.touch(0o755)
    return program


def proceed() -> None:
    async def acted(ram: Fd) -> None:
        with DomainQemu("vm", os.getpid(), Fd(os.pidfd_open(os.getpid()))) as qemu:
            client = AsyncClient("/none")
            await Domain(description.read(XML), qemu, ram, client, print, file_uri=True)._proceed()

    with memory(4096) as ram:
        asyncio.run(acted(ram))


def answers(state: str, running: bool) -> str:
    said = f'{{"return": {{"status": "{state}", "running": {str(running).lower()}}}}}'
    return f'case "$*" in *query-status*) echo \'{said}\';; *) echo "error: $REASON" >&2; exit 1;; esac\n'


def test_a_domain_that_qemu_refuses_to_continue_is_stuck(virsh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    virsh.write_text("#!/bin/sh\n" + answers("paused", running=False))
    monkeypatch.setenv("REASON", LOCKED)
    with pytest.raises(LibvirtFailed, match="Failed to get"):
        proceed()


def test_a_domain_is_continued_as_soon_as_libvirt_is_there(virsh: Path) -> None:
    virsh.write_text("#!/bin/sh\necho 'error: failed to connect to the hypervisor' >&2\nexit 1\n")
    with pytest.raises(QemuLate, match="failed to connect"):
        proceed()


def test_a_domain_that_runs_already_goes_on(virsh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    virsh.write_text("#!/bin/sh\n" + answers("running", running=True))
    monkeypatch.setenv("REASON", "domain is already running")
    guest.note_pause("vm")
    proceed()
    assert not guest.was_paused("vm")
