"""The program in place of ssh: its command line, its statuses, and commands over a host's socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.fleet import remote
from luod.fleet.ssh import parse


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["h1", "/bin/sh -c 'echo ~'"], ("h1", "/bin/sh -c 'echo ~'")),
        (["-o", "KbdInteractiveAuthentication=no", "-oUser=root", "-tt", "root@192.0.2.1", "id"], ("192.0.2.1", "id")),
        (["-C", "-p", "22", "-i", "key", "--", "h1", "echo", "-n", "x"], ("h1", "echo -n x")),
        (["-tp", "22", "h1", "id"], ("h1", "id")),
        (["-V"], None),
        (["-O", "stop", "h1"], None),
        (["h1"], None),
    ],
)
def test_options_of_ssh_are_left_out(words: list[str], expected: tuple[str, str] | None) -> None:
    assert parse(words) == expected


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """Yields the file of hosts for a host "h1", which runs one command here, and ends at `jump`."""
    (tmp_path / "hosts.json").write_text(json.dumps({"h1": str(tmp_path), "h2": str(tmp_path / "nowhere")}))
    with remote.listening(str(tmp_path / "ssh")) as listener:

        def answer() -> None:
            connection, _address = listener.accept()
            with connection:
                given = remote.receive(connection)
                assert given is not None
                command, files = given
                done = subprocess.run(
                    ["sh", "-c", command], stdin=files[0], stdout=files[1], stderr=files[2], check=False
                )
                for file in files:
                    os.close(file)
                if command != "jump":
                    remote.answer(connection, done.returncode)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield tmp_path / "hosts.json"


def ssh(hosts: Path, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "luod.fleet.ssh", str(hosts), *words]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def test_a_command_has_the_callers_files_and_its_own_status(host: Path) -> None:
    done = ssh(host, "-o", "X=y", "root@h1", "cat; echo error >&2; exit 7", stdin=b"of the caller")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"of the caller", b"error\n")


def test_a_host_that_jumps_is_a_lost_connection(host: Path) -> None:
    done = ssh(host, "h1", "jump")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (255, b"Connection to h1 closed by remote host.")


@pytest.mark.parametrize(("name", "said"), [("h2", b"No such file"), ("h3", b"this rehearsal has no host")])
def test_a_host_that_cannot_be_reached_is_255(tmp_path: Path, name: str, said: bytes) -> None:
    (tmp_path / "hosts.json").write_text(json.dumps({"h2": str(tmp_path / "nowhere")}))
    done = ssh(tmp_path / "hosts.json", name, "id")
    assert (done.returncode, said in done.stderr) == (255, True)
