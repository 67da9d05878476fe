"""The client's side of the FleetLock protocol: two POST requests that take and return a slot of a group of hosts.

It is not a lock server, and it does not decide when to lock: `luoctl fleet-lock` and the hooks of the policy do. The
source of the protocol is the text "FleetLock protocol" of Zincati and airlock.
"""

from __future__ import annotations

import hmac
import json
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from luod.errors import BadInput, FleetLockError, FleetLockRefused

Step = Literal["pre-reboot", "steady-state"]
"""`pre-reboot` takes a slot, `steady-state` returns it."""

MACHINE_ID: Final = Path("/etc/machine-id")
_APPLICATION: Final = bytes.fromhex("0b6a6f2a5c9e4b0f9c0b6a1e7d52c3f1")
"""luod's application id. With the machine id it makes an id of the host that does not disclose the machine id."""
_GROUP: Final = re.compile(r"[a-zA-Z0-9.-]+")
_MOST_BYTES: Final = 65536
"""The longest answer that is read."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: urllib would repeat the request as GET."""

    def redirect_request(self, *_: Any) -> None:
        return None


class FleetLock:
    """A lock server, and this host's identity for it."""

    def __init__(self, url: str, *, group: str, id: str, timeout: float) -> None:
        """`url` is the base, without `/v1/…`. `timeout` is in seconds, of one request. Raises BadInput."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isascii()
        except ValueError:  # of a port or an address of IPv6
            usable = False
        if not usable:
            raise BadInput(f"{url!r} is not the URL of a lock server", hint="give one such as https://lock.example.org")
        if parts.query or parts.fragment:
            raise BadInput(f"{url!r} has a query or a fragment", hint="give the base of the lock server's addresses")
        if not _GROUP.fullmatch(group):
            raise BadInput(f"{group!r} is not the name of a group", hint="use letters, digits, '.' and '-'")
        if not id:
            raise BadInput("the id of the host is empty", hint="give --id, or an id in /etc/machine-id")
        self._url = url.rstrip("/")
        self._client = {"id": id, "group": group}
        self._timeout = timeout

    def ask(self, step: Step) -> None:
        """Makes one request. Returns if the server agrees.

        Raises FleetLockRefused if it answers otherwise, and FleetLockError if it cannot be reached.
        """
        request = urllib.request.Request(
            f"{self._url}/v1/{step}",
            data=json.dumps({"client_params": self._client}).encode(),
            headers={"fleet-lock-protocol": "true", "Content-Type": "application/json"},
            method="POST",
        )
        try:
            status, body = self._answer(request)
        except (OSError, HTTPException) as error:
            why = getattr(error, "reason", error)  # that of a URLError is often an OSError, with a number
            told = getattr(why, "strerror", None) or why
            raise FleetLockError(f"{self._url}: {told or type(error).__name__}") from None
        if status != 200:
            raise FleetLockRefused(f"{self._url}: {_reason(status, body)}")

    def _answer(self, request: urllib.request.Request) -> tuple[int, bytes]:
        """Returns the HTTP status of the answer, and its body. Raises OSError, HTTPException."""
        try:
            answer = urllib.request.build_opener(_NoRedirect).open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.status, answer.read(_MOST_BYTES)


def _reason(status: int, body: bytes) -> str:
    """Returns the server's reason, or the HTTP status if the body has no reason."""
    try:
        told = json.loads(body)
        kind, value = told["kind"], told["value"]
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {status}, without a reason"
    return f"{value} ({kind})"


def host_id(machine_id: Path = MACHINE_ID) -> str:
    """Returns this host's id: the application-specific machine id, as sd_id128_get_machine_app_specific(3) makes it.

    Raises BadInput if the machine has no id.
    """
    try:
        machine = bytes.fromhex(machine_id.read_text().strip())
    except (OSError, ValueError):
        machine = b""
    if len(machine) != 16:
        raise BadInput(f"{machine_id} has no machine id", hint="give --id, a name that no other host has")
    id = bytearray(hmac.digest(machine, _APPLICATION, "sha256")[:16])
    id[6] = id[6] & 0x0F | 0x40
    id[8] = id[8] & 0x3F | 0x80
    return id.hex()
