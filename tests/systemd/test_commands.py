"""Commands of the policy inside luod's hardened unit: hooks and reapers have its limits and no others, end in time with
their children, and their death loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.systemd.conftest import SystemdHost

pytestmark = pytest.mark.jumps_on

HOOK = "/usr/local/libexec/hook"
REAPER = "/usr/local/libexec/reaper"
REPORT = "/var/lib/luod/report"
CAPABILITIES = 1 << 2 | 1 << 5 | 1 << 19 | 1 << 22
"""CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SYS_PTRACE, CAP_SYS_BOOT: those of the unit."""
LIMITS = f"""#!/usr/bin/python3
import ctypes, errno, os, socket, sys

def error(call):
    try:
        call()
    except OSError as found:
        return errno.errorcode[found.errno]
    return "allowed"

def unshare():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "")

with open("{REPORT}", "w") as report:
    print(open("/proc/self/status").read(), file=report)
    print("network", error(lambda: socket.socket(socket.AF_INET)), file=report)
    print("usr", error(lambda: open("/usr/report", "w")), file=report)
    print("device", error(lambda: os.mknod("/var/lib/luod/device", 0o60600, os.makedev(8, 0))), file=report)
    print("namespace", error(unshare), file=report)
    print("own", error(lambda: open("/run/luod/report", "w")), file=report)
    print("home", os.listdir("/home"), file=report)
"""
SLOW = """#!/bin/sh
sleep 3001 &
sleep 3002
"""
PROCESSES = """for pid in $(cat /sys/fs/cgroup/system.slice/luod.service/cgroup.procs); do
    tr '\\0' ' ' </proc/$pid/cmdline; grep ^State: /proc/$pid/status
done"""
SLEEPS = "sleep 300"
ZOMBIE = "Z (zombie)"


def policy(host: SystemdHost, text: str) -> None:
    host.write("/etc/luod/luod.toml", text)
    host.sh("systemctl reload luod.service")


def processes(host: SystemdHost) -> str:
    """Returns a line with arguments and state of each process of luod's unit."""
    return host.sh(PROCESSES, check=False)


@pytest.fixture(scope="module", autouse=True)
def guests(host: SystemdHost) -> None:
    host.start_guests("a")
    host.sh("mkdir -p /home/user")


@pytest.fixture(autouse=True)
def _nothing_is_lost(host: SystemdHost) -> Iterator[None]:
    yield
    host.sh("rm -f /etc/luod/luod.toml && systemctl reload luod.service")
    host.until_take_part(1)
    assert "a" in host.sessions()
    assert ZOMBIE not in processes(host)


def test_a_hook_has_the_limits_of_the_unit_and_no_other_capability(host: SystemdHost) -> None:
    host.write(HOOK, LIMITS + "sys.exit('the hook refuses')\n", mode=0o755)
    policy(host, f'[hooks]\nbefore-update = ["{HOOK}"]\n')
    host.sh("luoctl load --kernel /boot/vmlinuz")

    said = host.sh("luoctl update; echo status $?", check=False)

    report = host.sh(f"cat {REPORT}")
    assert "the hook refuses" in said
    assert "status 4" in said
    for kind in ("Prm", "Eff", "Bnd"):
        (found,) = re.findall(rf"^Cap{kind}:\s+(\w+)$", report, re.MULTILINE)
        assert int(found, 16) == CAPABILITIES, kind
    assert re.search(r"^NoNewPrivs:\s+1$", report, re.MULTILINE)
    assert "network EAFNOSUPPORT" in report
    assert "usr EROFS" in report
    assert "device EPERM" in report
    assert "namespace EPERM" in report
    assert "own allowed" in report
    assert "home []" in report


def test_a_hook_that_takes_too_long_is_killed_with_its_children(host: SystemdHost) -> None:
    host.write(HOOK, SLOW, mode=0o755)
    policy(host, f'[hooks]\nbefore-update = ["{HOOK}"]\ntimeout = 2.0\n')
    host.sh("luoctl load --kernel /boot/vmlinuz")

    said = host.sh("luoctl update; echo status $?", check=False)

    assert "status 4" in said
    assert re.search(r"hook.*(2 s|2\.0 s|longer|time)", said)
    assert SLEEPS not in processes(host)


def test_a_hook_of_a_luod_that_is_killed_ends_with_it(host: SystemdHost) -> None:
    host.write(HOOK, SLOW, mode=0o755)
    policy(host, f'[hooks]\nbefore-update = ["{HOOK}"]\n')
    host.sh("luoctl load --kernel /boot/vmlinuz && (luoctl update >/run/update 2>&1 &)")
    host.until(PROCESSES, SLEEPS, "the hook runs")

    host.sh("systemctl kill --signal KILL --kill-whom main luod.service")
    host.until_take_part(1)

    assert SLEEPS not in processes(host)
    assert re.search(r"state +idle", host.sh("luoctl status"))


def test_a_process_of_luod_that_is_killed_leaves_no_zombie_and_loses_nothing(host: SystemdHost) -> None:
    main = host.pid("luod.service")
    host.create("by-hand")
    others = host.sh("cat /sys/fs/cgroup/system.slice/luod.service/cgroup.procs").split()
    helpers = [int(pid) for pid in others if int(pid) != main]
    assert helpers

    for pid in helpers:
        host.sh(f"kill -KILL {pid}", check=False)  # it may have ended with one before
        host.until_take_part(1)

        assert host.pid("luod.service") == main
        assert host.sessions() == {"a", "by-hand"}
        assert ZOMBIE not in processes(host)
    host.create("afterwards")
    host.sh("luoctl release by-hand && luoctl release afterwards")


def test_a_reaper_of_the_policy_has_the_session_and_the_limits_of_the_unit(host: SystemdHost) -> None:
    arrive_with(host, "abandoned")
    finish = (
        "import fcntl\nfrom luod.liveupdate import IncomingSession\nfrom luod.linux import Fd\n"
        "IncomingSession(Fd(int(os.environ['LUOD_SESSION_FD']))).finish(discard=True)\nprint('discarded by hand')\n"
    )
    host.write(REAPER, LIMITS + finish, mode=0o755)
    policy(host, f'reaper = ["{REAPER}"]\n')

    said = host.sh("luoctl discard abandoned")

    report = host.sh(f"cat {REPORT}")
    assert "discarded by hand" in said
    assert f"CapEff:\t{CAPABILITIES:016x}" in report
    assert "network EAFNOSUPPORT" in report
    assert host.sessions() == {"a"}


def test_a_reaper_that_is_killed_loses_nothing_and_the_session_can_be_discarded_again(host: SystemdHost) -> None:
    arrive_with(host, "abandoned")
    host.write(REAPER, SLOW, mode=0o755)
    policy(host, f'reaper = ["{REAPER}"]\n')
    host.sh("luoctl discard abandoned >/run/discard 2>&1 &")
    host.until(PROCESSES, SLEEPS, "the reaper runs")

    host.sh("""kill -KILL $(grep -l '^reaper$' /proc/[0-9]*/comm | head -n 1 | cut -d/ -f3)""")

    host.until("luoctl status", "abandoned", "luod says which session is stuck")
    assert "it was ended by signal 9" in host.sh("cat /run/discard")
    assert SLEEPS not in processes(host)
    assert host.sessions() == {"a", "abandoned"}
    host.sh("rm /etc/luod/luod.toml && systemctl reload luod.service")
    host.sh("luoctl discard abandoned")
    assert host.sessions() == {"a"}


def arrive_with(host: SystemdHost, name: str) -> None:
    """Carries a session into the next kernel that nobody retrieves there."""
    host.create(name)
    host.sh("luoctl load --kernel /boot/vmlinuz")
    with host.machine.expect_jump(timeout=300):
        host.sh("luoctl update --ignore-finding contents-undeclared", check=False)
    host.until_take_part(1)
