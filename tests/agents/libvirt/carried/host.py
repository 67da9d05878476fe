"""A machine with luod, a real libvirtd and its QEMU: domains are started, carried through updates and restored.

libvirtd runs in the system that scripts/fetch-libvirt makes, which is not changed: the folders that it writes to are
copies in the test's folder, which outlive the kexec as a disk does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

from luod.testing import Program, eventually
from luod.testing.machine import Result
from luod.testing.tools import cannot_run
from tests.agents.qemu.carried.host import Witness
from tests.agents.qemu.guests import CountingGuest
from tests.daemon.host import Luod

ROOT = "LUOD_LIBVIRT_ROOT"
"""The environment variable with the folder that scripts/fetch-libvirt prints."""
WRITTEN = ("etc/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log/libvirt")
INSIDE = "/srv"
"""The folder of the test's disks and consoles, as libvirt sees it."""
MORE = 5
"""Numbers after which a guest certainly runs."""

_BOOT = """\
set -e
root=$1 own=$2
for each in proc run sys; do mount --rbind /$each $root/$each; done
# Without /dev/kvm: where libvirt's user may not open it, libvirt asks QEMU what it can do for each domain, 12 times.
mount -t tmpfs -o mode=755 dev $root/dev
for each in null zero full random urandom; do touch $root/dev/$each; mount --bind /dev/$each $root/dev/$each; done
mkdir $root/dev/pts $root/dev/shm
for each in {written}; do mount --bind $own/$each $root/$each; done
mount --bind $own/disks $root{inside}
"""
_QEMU_CONF = """\
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
remember_owner = 0
security_driver = "none"
"""
_LIBVIRTD_CONF = """\
auth_unix_rw = "none"
auth_unix_ro = "none"
"""


def root() -> str:
    """Returns the folder of the system with libvirt. Skips the test without it."""
    path = os.environ.get(ROOT) or cannot_run(f"{ROOT} is not set to the folder that scripts/fetch-libvirt prints")
    return path if os.path.exists(f"{path}/usr/sbin/libvirtd") else cannot_run(f"{ROOT}: {path} has no libvirtd")


class LibvirtHost:
    """libvirtd beside luod on one machine."""

    def __init__(self, luod: Luod, folder: Path, *, patience: float = 120) -> None:
        """`folder` is the test's own. `patience`: the seconds in which a guest must count."""
        self.luod = luod
        self._patience = patience
        self._root = root()
        self._own = folder / "libvirt"
        self.disks = self._own / "disks"
        self._programs = folder / "programs"
        self._programs.mkdir()
        self._hangs = folder / "hangs"
        self._write_virsh("")
        self.disks.mkdir(parents=True)
        for written in WRITTEN:
            shutil.copytree(f"{self._root}/{written}", self._own / written, symlinks=True, dirs_exist_ok=True)
            # shutil keeps no owners, which libvirt's own folders have.
            subprocess.run(
                ["cp", "-a", "--attributes-only", f"{self._root}/{written}/.", self._own / written], check=True
            )
        (self._own / "etc/libvirt/qemu.conf").write_text(_QEMU_CONF)
        (self._own / "etc/libvirt/libvirtd.conf").write_text(_LIBVIRTD_CONF)
        self.agents: dict[str, Program] = {}
        self.boot()

    def boot(self) -> None:
        """Starts libvirtd, in each boot of the machine."""
        script = _BOOT.format(written=" ".join(WRITTEN), inside=INSIDE)
        self.luod.machine.run(["sh", "-c", script, "boot", self._root, str(self._own)])
        self.start_libvirtd()

    def start_libvirtd(self) -> None:
        self.libvirtd = self.luod.machine.spawn(["chroot", self._root, "/usr/sbin/libvirtd"])
        eventually(self._answers, within=self._patience, describe="libvirtd answers")

    def _answers(self) -> bool:
        assert self.libvirtd.returncode is None, f"libvirtd ended: {self.libvirtd.stderr}"
        return self.virsh("list", check=False).returncode == 0

    def _write_virsh(self, first: str) -> None:
        new = self._programs / "new"
        new.write_text(f'#!/bin/sh\n{first}\nexec /usr/sbin/chroot {self._root} /usr/bin/virsh "$@"\n')
        new.chmod(0o755)
        new.rename(self._programs / "virsh")

    @contextlib.contextmanager
    def hanging(self, words: str) -> Iterator[None]:
        """Has an agent's commands with these words hang in the block. They end with their agent."""
        self._write_virsh(
            f'case "$*" in *{words}*) touch {self._hangs}; exec setpriv --pdeathsig KILL sleep 1000;; esac'
        )
        try:
            yield
        finally:
            self._write_virsh("")

    @contextlib.contextmanager
    def failing(self, words: str) -> Iterator[None]:
        """Has an agent's commands with these words fail in the block."""
        self._write_virsh(f'case "$*" in *{words}*) echo "error: the test refuses it" >&2; exit 1;; esac')
        try:
            yield
        finally:
            self._write_virsh("")

    def until_it_hangs(self) -> None:
        """Waits until an agent's command hangs."""
        eventually(self._hangs.exists, within=self._patience, describe="the agent waits for virsh")

    def virsh(self, *words: str, stdin: bytes = b"", check: bool = True) -> Result:
        """Runs virsh, as an operator does."""
        command = ["chroot", self._root, "virsh", "--connect", "qemu:///system", "--quiet", *words]
        return self.luod.machine.run(command, stdin=stdin, env={"LC_ALL": "C"}, check=check, timeout=self._patience)

    def domain(self, name: str = "vm", *, more: str = "", balloon: str = "none") -> CountingGuest:
        """Defines a domain with a counting guest. `more` are further elements in <devices>."""
        folder = self.disks / name
        folder.mkdir()
        guest = CountingGuest(name, folder)
        guest.make_disk()
        guest.console.touch()
        self.define(guest, more=more, balloon=balloon)
        return guest

    def define(self, guest: CountingGuest, *, more: str = "", balloon: str = "none") -> None:
        """Defines the domain of a guest."""
        inside = f"{INSIDE}/{guest.name}"
        description = textwrap.dedent(f"""\
            <domain type='qemu'>
              <name>{guest.name}</name>
              <memory unit='MiB'>{guest.mebibytes}</memory>
              <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
              <features><acpi/></features>
              <devices>
                <disk type='file' device='disk'>
                  <driver name='qemu' type='raw'/>
                  <source file='{inside}/{guest.disk.name}'/>
                  <target dev='vda' bus='virtio'/>
                </disk>
                <serial type='file'><source path='{inside}/{guest.console.name}' append='on'/></serial>
                <memballoon model='{balloon}'/>
                {more}
              </devices>
            </domain>
            """)
        self.virsh("define", "/proc/self/fd/0", stdin=description.encode())

    def agent(self, guest: CountingGuest, *words: str) -> Program:
        """Starts `luoctl libvirt` with these words, as the guest's agent."""
        python = self.luod.python()
        environment = {**python.environment, "PATH": f"{self._programs}:{os.environ['PATH']}"}
        program = self.luod.machine.spawn(python.module("luod.ctl.main", "libvirt", *words), env=environment)
        self.agents[guest.name] = program
        return program

    def run(self, guest: CountingGuest) -> Program:
        """Starts a domain, and returns when it counts and takes part in updates."""
        return self._started(guest, "run", guest.name)

    def restore(self, guest: CountingGuest) -> Program:
        """Restores a domain from the last kernel, and returns when it counts and takes part in updates."""
        return self._started(guest, "restore", guest.name)

    def start(self, guest: CountingGuest) -> Program:
        """Does what the unit of a domain does, and returns when it counts and takes part in updates."""
        return self._started(guest, "start", guest.name)

    def _started(self, guest: CountingGuest, *words: str) -> Program:
        program = self.agent(guest, *words)
        self.until_it_says(guest, "takes part in updates")
        self.until_it_counts(guest)
        return program

    def until_it_says(self, guest: CountingGuest, text: str) -> None:
        """Waits until a guest's agent has said this."""
        agent = self.agents[guest.name]

        def says() -> bool:
            if agent.returncode is not None or not self.luod.machine.signal(agent.pid, 0):
                raise AssertionError(f"the agent of {guest.name} ended:\n{agent.stderr}\n{self.qemu_log(guest)}")
            return text in agent.stderr

        eventually(says, within=self._patience, describe=f"the agent of {guest.name} says {text!r}")

    def until_it_counts(self, guest: CountingGuest) -> None:
        """Waits until a guest has printed some numbers more."""
        before = len(guest.numbers())
        eventually(
            lambda: len(guest.numbers()) >= before + MORE,
            within=self._patience,
            describe=f"{guest.name} counts on from {before}",
        )

    def qemu_log(self, guest: CountingGuest) -> str:
        """Returns what libvirt has written about a domain's QEMU."""
        log = self._own / f"var/log/libvirt/qemu/{guest.name}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def state(self, guest: CountingGuest) -> str:
        """Returns what libvirt says about a domain, such as "running (unpaused)"."""
        return self.virsh("domstate", guest.name, "--reason").text.strip()

    def capabilities(self, guest: CountingGuest) -> str:
        """Returns how a domain's QEMU would save it, such as "x-ignore-shared: off"."""
        return self.virsh("qemu-monitor-command", "--hmp", guest.name, "info migrate_capabilities").text

    def qemu_pid(self, guest: CountingGuest) -> int:
        """Returns the process id of a domain's QEMU, in the machine."""
        return int(self.luod.machine.read(f"/run/libvirt/qemu/{guest.name}.pid"))

    def update(self) -> None:
        """Does a live update, and starts luod and libvirtd in the next kernel, in which no domain runs yet."""
        self.luod.load()
        self.luod.update()
        self._arrive()

    def frozen(self, guest: CountingGuest) -> Witness:
        """Begins an update, and returns its witness, for which it waits once the domain is ready in freezing."""
        witness = Witness(self)
        witness.begin()
        witness.prepared()
        witness.until_ready(guest.name)
        return witness

    def assert_carried(self, guest: CountingGuest, witness: Witness) -> None:
        """Does an update with a witness, and asserts that it carries the domain."""
        witness.begin()
        witness.until_ready(guest.name)
        witness.prepared()
        with self.luod.machine.expect_jump():
            witness.frozen()
        self._arrive()
        self.restore(guest)
        guest.assert_nothing_is_lost()

    def _arrive(self) -> None:
        self.agents.clear()
        self.luod.start()
        self.boot()

    def sessions(self) -> dict[str, str]:
        """Returns the state of each session, by its name."""
        return {session["name"]: session["state"] for session in self.luod.luoctl_json("list")["sessions"]}
