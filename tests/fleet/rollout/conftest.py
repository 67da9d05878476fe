"""The collection and an unmodified Ansible for the tests of roll-outs: `make test-fleet` sets LUOD_ANSIBLE."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from luod.decode import Decoder
from luod.fleet.outcome import Report
from luod.testing.tools import cannot_run
from tests.library import ROOT

Rehearse = Callable[..., tuple[Report, str]]


@pytest.fixture(scope="session")
def ansible() -> str:
    """Returns the directory with Ansible's programs."""
    return os.environ.get("LUOD_ANSIBLE") or cannot_run("LUOD_ANSIBLE names no directory with Ansible's programs")


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a path of collections with ours, as a link: Ansible finds a role by the name of its directory."""
    path = tmp_path_factory.mktemp("collections")
    (path / "ansible_collections/luod").mkdir(parents=True)
    (path / "ansible_collections/luod/host").symlink_to(ROOT / "ansible")
    return path


@pytest.fixture
def rehearse(ansible: str, collections: Path, tmp_path: Path) -> Rehearse:
    """Returns a function that runs luod-fleet with hosts h1, h2, … and their faults. It returns the report, and what
    Ansible printed.
    """

    def run(
        hosts: int, faults: dict[str, str] | None = None, *options: str, more: Sequence[str] = ()
    ) -> tuple[Report, str]:
        variables = {
            "live_update_kernel": "/boot/vmlinuz",
            "live_update_initrd": ["/boot/initrd.img"],
            "live_update_wait_seconds": 60,
        }
        named = {f"h{number + 1}": {"ansible_host": f"192.0.2.{number + 1}"} for number in range(hosts)}
        # JSON is YAML, too.
        (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": named, "vars": variables}}))
        (tmp_path / "faults.toml").write_text(
            "".join(f'[hosts.{name}]\nfault = "{fault}"\n' for name, fault in (faults or {}).items())
        )
        command = [
            *(sys.executable, "-m", "luod.fleet.main", "rehearse", "--json", "-i", str(tmp_path / "hosts.yml")),
            *("--faults", str(tmp_path / "faults.toml"), "--initrd", "/boot/initrd.img", "--ansible", ansible),
            *(*options, "luod.host.update"),
            *(("--", *more) if more else ()),
        ]
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_LOCAL_TEMP": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode in (0, 4), done.stderr
        report: Report = Decoder(strict=True)(Report, json.loads(done.stdout))
        return report, done.stderr

    return run
