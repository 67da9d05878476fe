"""The commands of docs/install.md and docs/systemd.md, run in their order as an administrator would, and what the pages
say about the results.

Every block of code of the two pages is run, or is in ELSEWHERE with the reason. A block that begins with a comment of a
path is the contents of that file.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from luod.errors import MachineEnded
from tests.systemd.conftest import SystemdHost

pytestmark = pytest.mark.jumps_on

DOCS = Path(__file__).parents[2] / "docs"
ELSEWHERE = {
    "make deb": "the packages are built before the machine boots",
    "make install": "scripts/try-install runs it, in a Debian without systemd",
    "pip install luod": "scripts/try-install installs the wheel",
    "pip install 'luod[daemon,ctl]'": "scripts/try-install installs the wheel",
}
REBOOT = "systemctl start reboot.target"
REMOVE = "LUOD_REMOVE=drop apt remove luod"


def blocks(page: str) -> list[str]:
    """Returns the blocks of code of a page, in order."""
    found: list[list[str]] = []
    fenced = inside = False
    for line in (DOCS / page).read_text().splitlines():
        if line.startswith("```"):
            fenced = not fenced
            if fenced:
                found.append([])
        elif fenced:
            found[-1].append(line)
        elif line.startswith("    ") and not line.startswith("     "):
            if not inside:
                found.append([])
            found[-1].append(line[4:])
        inside = not fenced and (line.startswith("    ") or (inside and not line))
    return ["\n".join(lines).strip() for lines in found]


class Administrator:
    """Follows a page, and keeps what each command printed."""

    def __init__(self, host: SystemdHost) -> None:
        self.host = host
        self.said: dict[str, str] = {}

    def follow(self, page: str, *, until: str = "") -> None:
        """Runs the blocks of a page, up to the block `until`, which is left out."""
        for block in blocks(page):
            if block == until:
                return
            if named := re.match(r"# (/\S+)\n", block):
                self.host.write(named[1], block + "\n")
            else:
                for line in block.splitlines():
                    self.run(re.sub(r"\s+#.*", "", line))

    def run(self, line: str) -> None:
        if line in ELSEWHERE:
            return
        command = re.sub(r"\bID\b", lambda _: self.update(), re.sub(r"\bNAME\b", "vmm@a.service", line))
        if command.startswith("luoctl update"):
            with self.host.machine.expect_jump(timeout=300):
                self.host.sh(command, check=False)
            self.host.until_ready()
        elif command == "luoctl list":
            self.said[line] = self.host.until(command, "outgoing", "the VMM has its session")
        else:
            self.said[line] = self.host.sh(f"cd /root/luod && yes | {command}", check="status" not in line)

    def update(self) -> str:
        """Returns the id of the last update."""
        (found,) = re.findall(r"^update (\w+),", self.host.sh("luoctl timeline"), re.MULTILINE)
        return str(found)


@pytest.fixture(scope="module")
def administrator(host: SystemdHost) -> Administrator:
    host.sh("mkdir -p /root/luod/build && ln -s /opt/present /root/luod/build/deb")  # what `make deb` leaves
    return Administrator(host)


def test_the_page_of_the_installation_leaves_a_luod_that_runs(administrator: Administrator) -> None:
    administrator.follow("install.md", until=REMOVE)

    status = administrator.host.sh("luoctl status")
    assert re.search(r"state +idle", status)
    assert administrator.host.sh("systemctl is-enabled luod.service") == "enabled"


def test_the_page_of_systemd_shows_what_an_administrator_sees(administrator: Administrator) -> None:
    host = administrator.host
    administrator.follow("systemd.md", until=REBOOT)
    rest = blocks("systemd.md")
    rest = rest[rest.index(REBOOT) + 1 :]

    assert "FD Store: 2 " in administrator.said["systemctl status luod.service"]
    assert re.search(r"^a\b", administrator.said["luoctl list"], re.MULTILINE)
    assert host.resumed_at("a") > 0
    timeline = host.sh("luoctl timeline")
    assert "done" in timeline
    assert re.search(r"blackout +\S+ m?s", timeline)
    assert re.search(r"retrieved|outgoing", host.sh("luoctl list"))
    assert rest, "the blocks after the reboot are run by the next test"


def test_its_commands_after_the_reboot_lose_nothing_and_show_the_journal(administrator: Administrator) -> None:
    host, said = administrator.host, administrator.said
    every = blocks("systemd.md")
    for block in every[every.index(REBOOT) + 1 :]:
        if named := re.match(r"# (/\S+)\n", block):
            host.write(named[1], block + "\n")
            continue
        for line in block.splitlines():
            administrator.run(line)
            host.until_ready()
    host.until_take_part(1)

    assert host.sessions() == {"a"}
    assert "started version=" in said["journalctl -u luod.service"]
    assert "name=a " in said["journalctl LUOD_SESSION=a"]
    for event in ("starting", "preparing", "freezing", "jumping", "arrived", "restored"):
        assert f"{event} update=" in said["journalctl LUOD_UPDATE=ID"]
    # No session was torn.
    assert "-- No entries --" in said["journalctl --catalog LUOD_EVENT=session-torn"]


def test_the_drop_ins_of_the_page_change_what_it_says(administrator: Administrator) -> None:
    host = administrator.host
    host.write("/etc/systemd/system/my-vmm@.service", "[Service]\nExecStart=sleep infinity\n")

    host.sh("systemctl daemon-reload && systemctl restart luod.service")

    shown = host.sh("systemctl show --property IgnoreOnIsolate,TimeoutStopUSec,After my-vmm@x.service")
    assert "IgnoreOnIsolate=yes" in shown
    assert "TimeoutStopUSec=2s" in shown
    assert "luod.service" in shown
    shown = host.sh("systemctl show --property PrivateNetwork,RestrictAddressFamilies luod.service")
    assert "PrivateNetwork=no" in shown
    assert "AF_INET " in shown
    host.until_take_part(1)


def test_a_removal_is_refused_and_the_command_of_the_page_loses_the_sessions_knowingly(
    administrator: Administrator,
) -> None:
    host = administrator.host
    refused = host.sh("apt-get remove --yes luod", check=False)

    administrator.run(REMOVE)

    assert "luod holds these sessions" in refused
    assert "LUOD_REMOVE=drop" in refused
    assert host.sh("test -e /usr/sbin/luod || echo gone") == "gone"


def test_the_reboot_of_the_page_is_not_inhibited(administrator: Administrator) -> None:
    """The last test: the machine ends."""
    host = administrator.host
    host.sh("apt-get install --yes /opt/present/*.deb", seconds=500)
    host.start_guests("a")
    host.until("luoctl status", "inhibited while luod holds sessions", "luod has the lock")

    denied = host.sh("systemctl reboot --check-inhibitors=no", check=False)

    assert "Access denied" in denied
    with pytest.raises(MachineEnded):
        host.sh(f"{REBOOT} && sleep infinity")
