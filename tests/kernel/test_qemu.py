"""A guest of an unmodified QEMU lives through a real kexec: QEMU in our kernel in QEMU, all on emulated processors."""

from __future__ import annotations

import json
from pathlib import Path

from tests.agents.qemu.carried.host import Host, Witness, counting
from tests.agents.qemu.guests import CountingGuest
from tests.daemon.host import Luod

SECONDS = 200
"""In which a QEMU starts, and its guest counts."""
MEBIBYTES = 16
_FRAMES = """
import json, sys
from luod.testing.frames import frames, memfd_of
print(json.dumps(list(frames(memfd_of(int(sys.argv[1]), int(sys.argv[2]))))))
"""


def test_it_counts_on_in_the_next_kernel_in_the_same_page_frames(luod: Luod, tmp_path: Path) -> None:
    """The frames are read when the RAM is preserved: PRESERVE_FD may move pages (docs/hazards.md, H2)."""
    host = Host(luod, patience=SECONDS)
    guest = counting(tmp_path, mebibytes=MEBIBYTES)
    host.run(guest)
    witness = Witness(host)
    witness.begin(deadline=SECONDS)
    witness.prepared()
    witness.until_ready(guest.name)
    before, numbers = page_frames(host, guest), len(guest.numbers())

    with luod.machine.expect_jump():
        witness.frozen()
    host.agents.clear()
    luod.start()
    host.restore(guest)

    assert guest.assert_nothing_is_lost() > numbers
    after = page_frames(host, guest)
    assert len(set(before)) == MEBIBYTES << 8
    assert 0 not in before, "a page of its RAM was not allocated"
    assert after == before


def page_frames(host: Host, guest: CountingGuest) -> list[int]:
    """Returns the page frames of the guest's RAM, of 4 KiB each."""
    found: list[int] = json.loads(host.luod.run_source(_FRAMES, host.agents[guest.name].pid, MEBIBYTES << 20).text)
    return found
