"""The journal tells an update by its id, from the request to the last restored session, over the kexec."""

from __future__ import annotations

import json
import re

import pytest

from tests.systemd.conftest import SystemdHost

pytestmark = pytest.mark.jumps_on

Event = dict[str, str]
IN_ORDER = ["starting", "preparing", "freezing", "jumping", "begun", "arrived", "resumed", "restored"]
LOADED = "luoctl load --kernel /boot/vmlinuz"


def events(host: SystemdHost, *matches: str) -> list[Event]:
    """Returns luod's events of all boots that match, oldest first."""
    host.sh("journalctl --sync")
    told = host.sh(f"journalctl --no-pager -o json {' '.join(matches)} LUOD_PROGRAM=serve")
    return [json.loads(line) for line in told.splitlines()]


def last_update(host: SystemdHost) -> str:
    (found,) = re.findall(r"^update (\w+),", host.sh("luoctl timeline"), re.MULTILINE)
    return str(found)


def phases(told: list[Event]) -> list[str | None]:
    """Returns the phases in their order, each once."""
    return list(dict.fromkeys(each.get("LUOD_PHASE") for each in told))


@pytest.fixture(scope="module", autouse=True)
def guests(host: SystemdHost) -> None:
    host.start_guests("a")


@pytest.mark.parametrize("way", ["--direct", "--systemd"])
def test_an_update_is_told_from_its_request_to_its_last_restored_session(host: SystemdHost, way: str) -> None:
    host.sh(LOADED)
    with host.machine.expect_jump(timeout=300):
        host.sh(f"luoctl update {way}", check=False, seconds=300)
    host.until_take_part(1)

    told = events(host, f"LUOD_UPDATE={last_update(host)}")

    names = [each["LUOD_EVENT"] for each in told]
    boots = [each["_BOOT_ID"] for each in told]
    assert [name for name in names if name in IN_ORDER] == IN_ORDER
    assert "released" in names[names.index("begun") :]
    assert phases(told) == ["starting", "preparing", "freezing", "jumping", "restoring"]
    assert len(set(boots)) == 2
    assert all((each["LUOD_PHASE"] == "restoring") == (each["_BOOT_ID"] == boots[-1]) for each in told)


def test_a_session_is_told_by_its_name(host: SystemdHost) -> None:
    told = events(host, "LUOD_SESSION=a")

    assert {"created", "released"} <= {each["LUOD_EVENT"] for each in told}
    assert all(re.search(r"\bname=a\b", each["MESSAGE"]) for each in told)


def test_after_an_update_events_are_of_none(host: SystemdHost) -> None:
    host.create("later")
    host.sh("luoctl release later")

    (told,) = events(host, "LUOD_EVENT=created", "LUOD_SESSION=later")

    assert "LUOD_UPDATE" not in told
    assert "LUOD_PHASE" not in told


def test_a_cancelled_update_is_told_to_its_end_with_the_reason(host: SystemdHost) -> None:
    host.sh(LOADED)
    with host.stopped_guest("a"):
        host.sh("luoctl update --deadline 60 >/run/update 2>&1 &")
        host.until("luoctl status", "preparing", "the update waits for the VMM")
        host.sh("luoctl abort")

    told = events(host, f"LUOD_UPDATE={last_update(host)}")

    assert phases(told)[:3] == ["starting", "preparing", "cancelling"]
    assert told[-1]["LUOD_EVENT"] == "cancelled"
    assert "abort" in told[-1]["LUOD_REASON"]
    assert told[-1]["MESSAGE_ID"] == "f6270092f6294d4a96508c5a40046b32"
