"""A host of a fleet that is reached by ssh: a Debian with systemd and OpenSSH on the project's kernel in QEMU.

`make test-ssh` builds its disk image, which LUOD_SSH_IMAGE names, the packages, and Ansible. The host's network is
QEMU's user network, so its port 22 is a port of this machine's loopback interface.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from luod.testing.kernel.machine import KernelMachine
from luod.testing.tools import require_tool
from tests.systemd.conftest import BOOT_SECONDS, SystemdHost

IMAGE: Final = "LUOD_SSH_IMAGE"
_NETWORK: Final = "user,id=net,restrict=on,net=10.0.2.0/24,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:22"
_DEVICE: Final = "virtio-net-pci,netdev=net,romfile="
_PLAY_SECONDS: Final = 900.0
"""A run of Ansible that takes longer hangs."""
_RECAP: Final = re.compile(r"^vmhost +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Played:
    """A run of a playbook. `changed`: the tasks that changed something."""

    status: int
    changed: int
    said: str


class Controller:
    """Runs Ansible and ssh against the host. Of ssh's options it sets those that find the host and its key."""

    def __init__(self, directory: Path, port: int, ansible: str, collections: Path) -> None:
        self._directory = directory
        self._port = port
        self._ansible = ansible
        self._options = f"-F none -o UserKnownHostsFile={directory}/known_hosts"
        self._environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_LOCAL_TEMP": str(directory / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(directory / "control"),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        subprocess.run(
            [require_tool("ssh-keygen", package="openssh-client"), "-q", "-t", "ed25519", "-N", "", "-f", self.key],
            check=True,
        )

    @property
    def key(self) -> str:
        """Returns the path of the private key."""
        return f"{self._directory}/key"

    def trust(self, host: SystemdHost) -> None:
        """Gives the host the public key, and takes the host's."""
        host.write("/root/.ssh/authorized_keys", Path(f"{self.key}.pub").read_text(), mode=0o600)
        public = host.sh("cat /etc/ssh/ssh_host_ed25519_key.pub")
        self.write("known_hosts", f"[127.0.0.1]:{self._port} {public}")

    def ssh(self, command: str) -> subprocess.Popen[bytes]:
        """Starts a command on the host, on a connection of its own without keep-alive. The caller ends it."""
        options = [*self._options.split(), "-i", self.key, "-p", str(self._port), "-o", "ControlMaster=no"]
        return subprocess.Popen(
            [require_tool("ssh", package="openssh-client"), *options, "root@127.0.0.1", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self._environment,
        )

    def play(self, playbook: str, variables: Mapping[str, object]) -> Played:
        """Runs a playbook. Fails if it takes longer than a run that hangs may."""
        connection = {
            "ansible_host": "127.0.0.1",
            "ansible_port": self._port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": self.key,
            "ansible_ssh_common_args": self._options,
            "ansible_pipelining": True,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        # JSON is YAML, too.
        inventory = self.write("hosts.yml", json.dumps({"all": {"hosts": {"vmhost": connection}}}))
        command = [f"{self._ansible}/ansible-playbook", "-i", inventory, "-e", json.dumps(variables), playbook]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
            cwd=self._directory,
            timeout=_PLAY_SECONDS,
            check=False,
        )
        found = _RECAP.search(done.stdout)
        assert found is not None, done.stdout
        return Played(done.returncode, int(found[1]), done.stdout)

    def write(self, name: str, text: str) -> str:
        """Writes a file of the controller, and returns its path."""
        path = self._directory / name
        path.write_text(text)
        return str(path)

    def apply(self, role: str, variables: Mapping[str, object]) -> Played:
        """Runs a playbook with one role."""
        play = {"name": "Apply a role", "hosts": "all", "gather_facts": False, "roles": [{"role": role}]}
        return self.play(self.write("play.yml", json.dumps([play])), variables)


@pytest.fixture(scope="module")
def port() -> int:
    """Returns a port of the loopback interface that nothing used just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def host(port: int) -> Iterator[SystemdHost]:
    """Yields the host, on which sshd accepts connections and luod is not installed."""
    image = os.environ.get(IMAGE)
    if image is None or not Path(image).exists():
        pytest.fail(f"{IMAGE} names nothing to boot: run `make test-ssh`")
    arguments: Sequence[str] = ("-netdev", _NETWORK.format(port=port), "-device", _DEVICE)
    with KernelMachine(disk=image, arguments=arguments, timeout=BOOT_SECONDS) as machine:
        host = SystemdHost(machine)
        host.until("systemctl is-active --quiet ssh.service && echo runs", "runs", "sshd accepts connections")
        yield host


@pytest.fixture(scope="module")
def controller(host: SystemdHost, port: int, ansible: str, collections: Path) -> Iterator[Controller]:
    """Yields the machine that rolls updates out: this one."""
    # Not below pytest's directory: the path of a UNIX socket has up to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="luod-ssh-", dir="/tmp") as directory:
        controller = Controller(Path(directory), port, ansible, collections)
        controller.trust(host)
        yield controller
