"""Rehearsals of an unmodified Ansible: `make test-fleet` runs the tests."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from luod.decode import Decoder
from luod.fleet.outcome import Report
from luod.testing.interpreter import interpreter_for
from tests.fleet.conftest import linked

Rehearse = Callable[..., tuple[Report, str]]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Yields a directory for the files of every user; those of pytest are for one."""
    with tempfile.TemporaryDirectory(prefix="luod-rollout-") as path:
        os.chmod(path, 0o777)
        yield Path(path)


@pytest.fixture
def rehearse(ansible: str, scratch: Path) -> Rehearse:
    """Returns a function that runs luod-fleet with hosts h1, h2, … and their faults. It returns the report, and what
    Ansible printed.
    """

    collections = linked(scratch / "collections")

    def run(
        hosts: int,
        faults: dict[str, str] | None = None,
        *options: str,
        more: Sequence[str] = (),
        playbook: str = "luod.host.update",
        user: int | None = None,
    ) -> tuple[Report, str]:
        python = interpreter_for(user)
        if python is None or not _reads(ansible, user):
            pytest.skip(f"uid {user} may not read this checkout and its Ansible")
        variables = {
            "live_update_kernel": "/boot/vmlinuz",
            "live_update_initrd": ["/boot/initrd.img"],
            "live_update_wait_seconds": 60,
        }
        named = {f"h{number + 1}": {"ansible_host": f"192.0.2.{number + 1}"} for number in range(hosts)}
        # JSON is YAML, too.
        (scratch / "hosts.yml").write_text(json.dumps({"all": {"hosts": named, "vars": variables}}))
        (scratch / "faults.toml").write_text(
            "".join(f'[hosts.{name}]\nfault = "{fault}"\n' for name, fault in (faults or {}).items())
        )
        command = [
            *python.module("luod.fleet.main", "rehearse", "--json", "-i", str(scratch / "hosts.yml")),
            *("--faults", str(scratch / "faults.toml"), "--initrd", "/boot/initrd.img", "--ansible", ansible),
            *(*options, playbook),
            *(("--", *more) if more else ()),
        ]
        environment = {
            **os.environ,
            **python.environment,
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_LOCAL_TEMP": str(scratch / "ansible"),
            "HOME": str(scratch),
        }
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            cwd=scratch,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            check=False,
        )
        assert done.returncode in (0, 4), done.stderr
        report: Report = Decoder(strict=True)(Report, json.loads(done.stdout))
        return report, done.stderr

    return run


def _reads(path: str, user: int | None) -> bool:
    """Returns whether this user can run Ansible's programs."""
    command = [f"{path}/python", "-c", "import ansible"]
    return (
        subprocess.run(command, user=user, group=user, stderr=subprocess.DEVNULL, cwd="/", check=False).returncode == 0
    )
