"""The log lines that one client can cause: the log stays readable for others."""

from __future__ import annotations

import re
from collections import Counter

from luod.ipc.server.sparing import BURST
from tests.daemon.host import Luod
from tests.hostile.figures import MIB, Client, Figures, attack, call, footprint, settled

ATTACKER, OWNER = 1000, 1001
CREATE = call("io.luod.Sessions.Create", {"name": "evil", "manifest_fd": None})
RELEASE = call("io.luod.Sessions.Release", {"name": "evil", "direction": "outgoing", "outcome": "given_up"})
CALLS = 4 * BURST


def test_one_connection_that_creates_and_releases_without_end(luod: Luod, figures: Figures) -> None:
    root = Client(luod)
    idle = root.times("io.luod.Sessions.List", 50)
    before = footprint(luod)
    client = Client(luod, ATTACKER)

    with attack(luod, ATTACKER, connections=1, messages=[CREATE, RELEASE]):
        attacked = root.times("io.luod.Sessions.List", 50)
    for _ in range(CALLS):
        client.times("io.luod.Sessions.Create", 1, {"name": "again"})
        client.times("io.luod.Sessions.Release", 1, {"name": "again", "direction": "outgoing", "outcome": "given_up"})
    for name in ("evil", "again"):  # if the attack ended between the two
        client.times("io.luod.Sessions.Release", 1, {"name": name, "direction": "outgoing", "outcome": "given_up"})
    after = settled(luod, before)
    luod.vmm(OWNER).call("create", name="good", slot="s")
    luod.load()

    supervisor = luod.supervisor
    assert supervisor is not None
    luod.stop()
    lines = [line for line in supervisor.stderr.splitlines() if " serve " in line]
    written = Counter(line.split()[3] for line in lines if f"uid={ATTACKER}" in line and " more=" not in line)
    more = {line.split()[3]: int(found[1]) for line in lines if (found := re.search(r"more=(\d+)", line))}
    figures.add("List of root", idle=idle, attacked=attacked)
    figures.serve(before, after)
    figures.line(f"lines written {dict(written)}, left out {more}")
    assert set(written) == {"created", "released"}
    for event in ("created", "released"):
        # One more in each ten seconds, of which a test has twelve.
        assert BURST <= written[event] <= BURST + 12
        assert written[event] + more[event] >= CALLS
    assert any(" created " in line and "name=good" in line for line in lines)
    assert any(" loaded " in line for line in lines)
    assert after.fds <= before.fds
    assert after.memory - before.memory < 8 * MIB
