"""examples/ci: both files are YAML of the shape that the service wants, and their commands exist.

The commands were run in a Debian trixie; docs/luoemu.md says how. Here no runner and no network is needed.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from luod.testing.tools import cannot_run

ROOT: Final = Path(__file__).parents[1]
CI: Final = ROOT / "examples/ci"
FILES: Final = ("github-actions.yml", "gitlab-ci.yml")
PACKAGES: Final = {
    "curl": "curl",
    "gcc": "gcc",
    "kexec": "kexec-tools",
    "make": "make",
    "python3": "python3-venv",
    "rsync": "rsync",
}
"""The packages of the commands that a minimal Debian lacks. `make headers` of the kernel calls rsync."""
HEADERS: Final = {"libc6-dev", "uuid-dev"}
"""The packages of the headers that the selftests include."""
EVERYWHERE: Final = frozenset({"apt-get", "cd", "echo", "exec", "export", "pwd", "set", "sh", "sysctl"})
"""Builtins of the shell, and programs that every Debian and every runner has."""
RUNNER: Final = frozenset({"curl", "python3-venv", "ca-certificates"})
"""Packages of what GitHub's runners have. Their users are not root, and have sudo."""
_YAML: Final = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"


def parsed(name: str) -> dict[str, Any]:
    """Returns the file as an object. A key `on` is the boolean true in YAML 1.1, and "true" here."""
    text = (CI / name).read_bytes()
    done = subprocess.run(["/usr/bin/python3", "-c", _YAML], input=text, capture_output=True, check=False)
    if b"No module named 'yaml'" in done.stderr:
        cannot_run("needs PyYAML, of the Debian package python3-yaml")
    assert done.returncode == 0, done.stderr.decode()
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def script(name: str) -> list[str]:
    """Returns the lines of shell that the file has the service run."""
    content = parsed(name)
    if name == "gitlab-ci.yml":
        (job,) = content.values()
        assert set(job) == {"image", "script"}
        assert {type(line) for line in job["script"]} == {str}, "YAML makes an object of a line with a colon"
        return [*job["script"]]
    (job,) = content["jobs"].values()
    assert set(content) == {"name", "true", "jobs"}
    assert all(step.keys() <= {"name", "run", "uses"} and ("run" in step) != ("uses" in step) for step in job["steps"])
    return [line for step in job["steps"] for line in step.get("run", "").splitlines()]


def commands(line: str) -> set[str]:
    """Returns the commands of a line of shell, those after sudo too."""
    words = [word for word in shlex.split(line) if "=" not in word.partition("/")[0]]
    while words and words[0] == "sudo":
        words = words[1:]
    return {words[0].rpartition("/")[2]} if words else set()


def installed(lines: list[str]) -> set[str]:
    """Returns the packages that apt-get installs."""
    found = [line for line in lines if "apt-get install" in line]
    return {word for line in found for word in shlex.split(line)[2:] if not word.startswith("-")} - {"install"}


@pytest.mark.parametrize("name", FILES)
def test_its_lines_are_shell(name: str) -> None:
    lines = script(name)
    subprocess.run(["sh", "-n"], input="\n".join(lines), text=True, check=True)


@pytest.mark.parametrize("name", FILES)
def test_each_command_is_in_a_package_that_it_installs(name: str) -> None:
    lines = script(name)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    used = set().union(*map(commands, lines)) | {"gcc", "kexec", "make", "rsync", "luoemu"}
    assert used - set(PACKAGES) - EVERYWHERE - {"pip"} - set(scripts) == set(), "no package is known for these"
    there = installed(lines) | (RUNNER if name == "github-actions.yml" else frozenset())
    assert {PACKAGES[command] for command in used & set(PACKAGES)} | HEADERS <= there


@pytest.mark.parametrize("name", FILES)
def test_the_script_that_it_fetches_is_in_the_repository(name: str) -> None:
    (path,) = re.findall(r"https://raw\.githubusercontent\.com/OWNER/luod/main/(\S+)", "\n".join(script(name)))
    assert (ROOT / path).is_file()
    subprocess.run(["sh", "-n", ROOT / path], check=True)


def test_without_a_source_the_script_says_how_it_is_used() -> None:
    done = subprocess.run(["sh", CI / "selftests"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "usage: selftests KERNEL_SOURCE" in done.stderr


def test_both_install_the_same() -> None:
    github, gitlab = (installed(script(name)) for name in FILES)
    assert gitlab - RUNNER == github
