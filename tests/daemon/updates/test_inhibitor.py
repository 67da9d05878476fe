"""luod takes no lock on a machine that systemd does not run, and says so by leaving it out."""

from __future__ import annotations

from tests.daemon.host import Luod


def test_without_systemd_there_is_no_lock_and_nothing_to_say_of_it(luod: Luod) -> None:
    luod.vmm().call("create", name="vm", slot="s")

    assert luod.status()["shutdown_lock"] is None
    assert "shutdown" not in luod.luoctl("status").text
