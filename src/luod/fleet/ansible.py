"""What Ansible is given for a rehearsal, and what it printed: the hosts of an inventory, a playbook's run, its recap.

Ansible is not changed, and no plugin is added. The variables that it gets lead every connection to the emulated hosts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from luod.errors import AnsibleFailed, BadInput
from luod.frozen import frozen

_RECAP: Final = re.compile(
    r"^(?P<host>\S+)\s+: ok=\d+\s+changed=(?P<changed>\d+)\s+unreachable=(?P<unreachable>\d+)\s+failed=(?P<failed>\d+)"
)
_FATAL: Final = re.compile(r"^fatal: \[(?P<host>[^\]]+)\]: \w+! => (?P<result>\{.*\})$")
_HINT: Final = "install ansible-core, or give its folder of programs by --ansible"


@frozen
class Addressed:
    """A host of the inventory, and the address to which Ansible connects."""

    name: str
    address: str


@frozen
class Recap:
    """What Ansible counted for a host, and the last failure that it printed."""

    changed: int
    failed: bool
    reason: str | None = None


class Ansible:
    """The programs of one installation."""

    def __init__(self, directory: str | None) -> None:
        """`directory` has the programs; None: they are found by PATH. Raises BadInput: they are not there."""
        found = shutil.which("ansible-playbook", path=directory)
        if found is None:
            raise BadInput("there is no ansible-playbook", hint=_HINT)
        self._directory = os.path.dirname(found)

    def hosts(self, inventory: str, limit: str | None) -> tuple[Addressed, ...]:
        """Returns the hosts of an inventory. Raises AnsibleFailed."""
        command = [f"{self._directory}/ansible-inventory", "-i", inventory, "--list"]
        if limit is not None:
            command += ["--limit", limit]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
        if done.returncode:
            raise AnsibleFailed(f"ansible-inventory: {done.stderr.strip()}", hint="see `ansible-inventory --list`")
        return hosts_of(json.loads(done.stdout))

    def require_playbook(self, inventory: str, playbook: str) -> None:
        """Raises AnsibleFailed: there is no such playbook, or it has a mistake that Ansible finds without hosts."""
        command = [f"{self._directory}/ansible-playbook", "-i", inventory, "--syntax-check", playbook]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
        if done.returncode:
            hint = "ANSIBLE_COLLECTIONS_PATH names the folder of collections, if the playbook is in one"
            raise AnsibleFailed(f"ansible-playbook: {done.stderr.strip()}", hint=hint)

    def play(self, inventory: str, playbook: str, ssh: str, more: Sequence[str], log: str) -> int:
        """Runs a playbook with its output on standard error, and also in the file `log`. Returns the exit status."""
        variables = {
            "ansible_connection": "ssh",
            "ansible_ssh_executable": ssh,
            "ansible_ssh_transfer_method": "piped",
            "ansible_ssh_pipelining": True,
            "ansible_ssh_args": "",
            # The hosts have this machine's files.
            "ansible_python_interpreter": sys.executable,
            # The user of an emulated host is root.
            "ansible_become": False,
        }
        command = [f"{self._directory}/ansible-playbook", "-i", inventory, "-e", json.dumps(variables), *more, playbook]
        with (
            open(log, "wb") as file,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environment()) as play,
        ):
            assert play.stdout is not None
            for line in play.stdout:
                file.write(line)
                sys.stderr.buffer.write(line)
                sys.stderr.flush()
            return play.wait()


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_HOST_KEY_CHECKING": "0",
        "LC_ALL": os.environ.get("LC_ALL", "C.UTF-8"),
    }


def hosts_of(inventory: Mapping[str, Any]) -> tuple[Addressed, ...]:
    """Returns the hosts of what `ansible-inventory --list` prints, in its order."""
    variables = inventory.get("_meta", {}).get("hostvars", {})
    names = dict.fromkeys(_names(inventory, "all"))
    return tuple(Addressed(name, str(variables.get(name, {}).get("ansible_host", name))) for name in names)


def _names(inventory: Mapping[str, Any], group: str) -> Iterator[str]:
    found = inventory.get(group, {})
    yield from found.get("hosts", ())
    for child in found.get("children", ()):
        yield from _names(inventory, child)


def recap(lines: Sequence[str]) -> Mapping[str, Recap]:
    """Returns what a run counted by host: of the hosts to which it came. Raises AnsibleFailed: there is no recap."""
    reasons: dict[str, str] = {}
    found: dict[str, Recap] = {}
    told = False
    for line in lines:
        if fatal := _FATAL.match(line):
            reasons[fatal["host"]] = str(json.loads(fatal["result"]).get("msg", ""))
        told = told or line.startswith("PLAY RECAP")
        if told and (counted := _RECAP.match(line)):
            failed = counted["failed"] != "0" or counted["unreachable"] != "0"
            reason = reasons.get(counted["host"]) if failed else None
            found[counted["host"]] = Recap(int(counted["changed"]), failed, reason)
    if not told:
        raise AnsibleFailed("ansible-playbook printed no recap", hint="its output is above")
    return found
