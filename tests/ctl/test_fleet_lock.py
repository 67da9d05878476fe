"""`luoctl fleet-lock`, with a lock server that follows the text of the protocol."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from luod.ctl.fleet_lock import FleetLock, host_id
from luod.errors import BadInput, FleetLockError, FleetLockRefused
from tests.ctl.test_luoctl import error_of, luoctl

ID = "00112233445566778899aabbccddeeff"


class Server(ThreadingHTTPServer):
    """A lock server with one slot for each group. `answers` are what it gives instead, first to last."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.holder: dict[str, str] = {}
        self.requests: list[tuple[str, Any]] = []
        self.answers: list[tuple[int, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(length))
        self.server.requests.append((self.path, body))
        if self.server.answers:
            self._reply(*self.server.answers.pop(0))
        elif self.headers.get("fleet-lock-protocol") != "true":
            self._refuse(400, "no_header", "the header is missing")
        else:
            self._lock(body["client_params"]["group"], body["client_params"]["id"])

    def _lock(self, group: str, id: str) -> None:
        if self.path == "/v1/pre-reboot":
            if self.server.holder.setdefault(group, id) != id:
                self._refuse(409, "failed_lock_semaphore_full", "all slots are taken")
                return
        elif self.server.holder.get(group) == id:
            del self.server.holder[group]
        self._reply(200, b"")

    def _refuse(self, status: int, kind: str, value: str) -> None:
        self._reply(status, json.dumps({"kind": kind, "value": value}).encode())

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def lock(url: str, id: str = ID, *, timeout: float = 10.0) -> FleetLock:
    return FleetLock(url, group="default", id=id, timeout=timeout)


def test_a_slot_is_taken_and_given_in_the_words_of_the_protocol(server: Server) -> None:
    taken = luoctl("fleet-lock", "take", "--url", server.url, "--id", ID, "--group", "rack-1")
    assert (taken.returncode, taken.stdout) == (0, f"lock taken, as {ID} of group rack-1\n")
    assert server.holder == {"rack-1": ID}

    given = luoctl("--json", "fleet-lock", "give", "--url", server.url + "/", "--id", ID, "--group", "rack-1")

    assert json.loads(given.stdout) == {"version": 1, "lock": "given", "id": ID, "group": "rack-1"}
    assert server.holder == {}
    body = {"client_params": {"id": ID, "group": "rack-1"}}
    assert server.requests == [("/v1/pre-reboot", body), ("/v1/steady-state", body)]


def test_a_host_may_take_its_slot_twice_and_give_one_that_it_never_took(server: Server) -> None:
    lock(server.url).ask("pre-reboot")
    lock(server.url).ask("pre-reboot")
    lock(server.url, "another").ask("steady-state")

    assert server.holder == {"default": ID}


def test_a_refusal_has_the_servers_reason_and_a_status_of_its_own(server: Server) -> None:
    lock(server.url, "another").ask("pre-reboot")

    refused = luoctl("fleet-lock", "take", "--url", server.url, "--id", ID)

    assert refused.returncode == 4
    assert refused.stderr.splitlines()[0] == (f"luoctl: {server.url}: all slots are taken (failed_lock_semaphore_full)")
    assert (
        error_of(luoctl("--json", "fleet-lock", "take", "--url", server.url, "--id", ID))["error"] == "FleetLockRefused"
    )


def test_with_wait_the_request_is_repeated_until_the_slot_is_free(server: Server) -> None:
    server.answers = [(503, b"")]

    done = luoctl("fleet-lock", "take", "--url", server.url, "--id", ID, "--wait", "30")

    assert (done.returncode, len(server.requests)) == (0, 2)


def test_with_wait_it_ends_after_that_time(server: Server) -> None:
    lock(server.url, "another").ask("pre-reboot")

    late = luoctl("fleet-lock", "take", "--url", server.url, "--id", ID, "--wait", "0.2")

    assert late.returncode == 8
    assert late.stderr.startswith(f"luoctl: after 0.2 s: {server.url}: all slots are taken")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((500, b"oops"), "HTTP status 500, without a reason"),
        ((409, b'{"kind": 1}'), "HTTP status 409, without a reason"),
        ((409, b"[]"), "HTTP status 409, without a reason"),
        ((204, b""), "HTTP status 204, without a reason"),
        ((302, b""), "HTTP status 302, without a reason"),
    ],
)
def test_only_status_200_is_a_yes(server: Server, answer: tuple[int, bytes], words: str) -> None:
    server.answers = [answer]
    with pytest.raises(FleetLockRefused, match=words):
        lock(server.url).ask("pre-reboot")


def test_a_server_that_cannot_be_reached_is_an_error_of_its_own() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # keeps the port from others, and does not listen
        failed = luoctl("fleet-lock", "take", "--url", f"http://127.0.0.1:{deaf.getsockname()[1]}", "--id", ID)
    assert failed.returncode == 1
    assert "Connection refused" in failed.stderr


def test_a_server_that_does_not_answer_is_an_error_after_the_time_for_one_request(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(FleetLockError, match="timed out"):
        lock(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.05).ask("pre-reboot")


def test_a_server_that_stops_in_the_middle_of_a_refusal_is_one_that_did_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepted: list[socket.socket] = []

        def begin() -> None:
            accepted.append(listening.accept()[0])
            accepted[0].sendall(b"HTTP/1.1 409 Conflict\r\nContent-Length: 100\r\n\r\n{")

        thread = threading.Thread(target=begin)
        thread.start()
        with pytest.raises(FleetLockError, match="timed out"):
            lock(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.5).ask("pre-reboot")
        thread.join()
        accepted[0].close()


@pytest.mark.parametrize(
    "url",
    [
        "lock.example.org",
        "ftp://lock",
        "http://",
        "http://lock/?a=1",
        "http://lock/#a",
        "",
        "http://[::1",
        "http://lock:port",
        "http://lock:99999",
        "http://lock/\u00e4",
    ],
)
def test_a_url_that_is_not_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(BadInput):
        lock(url)


@pytest.mark.parametrize(("group", "id"), [("a b", ID), ("", ID), ("ä", ID), ("default", "")])
def test_a_group_or_an_id_that_the_protocol_does_not_have_is_refused(group: str, id: str) -> None:
    with pytest.raises(BadInput):
        FleetLock("http://lock", group=group, id=id, timeout=1)


def test_the_id_of_a_host_is_made_from_its_machine_id(tmp_path: Path) -> None:
    """The value is what `systemd-id128 --app-specific` prints on such a host."""
    file = tmp_path / "machine-id"
    file.write_text(f"{ID}\n")

    assert host_id(file) == "d2d12203e7904a1e9bb952a9713bf53b"


@pytest.mark.parametrize("content", ["", "uninitialized\n", "0011\n", None])
def test_a_host_without_a_machine_id_needs_an_id(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "machine-id"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadInput, match="has no machine id"):
        host_id(file)
