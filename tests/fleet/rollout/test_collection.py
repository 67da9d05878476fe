"""The collection: as ansible-galaxy builds it, and as ansible-lint wants it for production."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

from luod.version import __version__
from tests.library import ROOT


def run(ansible: str, collections: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program of Ansible, with no more than the installed collections."""
    environment = {
        **os.environ,
        "PATH": f"{ansible}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "NO_COLOR": "1",
    }
    return subprocess.run([*words], capture_output=True, text=True, env=environment, cwd=cwd, check=False)


def test_lint_for_production_has_no_finding(ansible: str, collections: Path) -> None:
    directory = collections / "ansible_collections/luod/host"
    done = run(ansible, collections, "ansible-lint", "--offline", "--profile", "production", cwd=directory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failure(s), 0 warning(s)" in done.stderr + done.stdout


def test_it_is_built_without_a_network_and_has_no_plugins(ansible: str, collections: Path, tmp_path: Path) -> None:
    words = ("ansible-galaxy", "collection", "build", "--output-path", str(tmp_path))
    done = run(ansible, collections, *words, cwd=ROOT / "ansible")
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / f"luod-host-{__version__}.tar.gz") as archive:
        names = archive.getnames()
    assert {"MANIFEST.json", "LICENSE", "playbooks/update.yml", "roles/live_update/tasks/main.yml"} <= set(names)
    assert not [name for name in names if name.startswith("plugins")]


def test_a_wrong_variable_is_refused_before_the_first_task(ansible: str, collections: Path, tmp_path: Path) -> None:
    variables = '{"live_update_kernel": "/boot/vmlinuz", "live_update_way": "sideways"}'
    words = ("ansible-playbook", "-i", "localhost,", "-c", "local", "-e", variables, "luod.host.update")
    done = run(ansible, collections, *words, cwd=tmp_path)
    assert done.returncode != 0
    assert "value of live_update_way must be one of: , direct, systemd, got: sideways" in done.stdout
