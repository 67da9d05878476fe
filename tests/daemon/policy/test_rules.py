"""Which rule is a peer's, and what it grants."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luod.daemon.policy import membership
from luod.daemon.policy.file import parse
from luod.daemon.policy.membership import NOWHERE, Membership
from luod.daemon.policy.rules import CLOSED, Granted, granted
from luod.ipc.server.peer import Peer, overflow_uid
from luod.linux import Fd
from luod.session_name import SessionName

VM = Membership("/system.slice/qemu@vm1.service/payload", "qemu@vm1.service")


def grant(text: str, uid: int = 1000, where: Membership = NOWHERE, **more: int | tuple[int, ...]) -> Granted:
    peer = Peer(uid, int(str(more.get("gid", uid))), 7, None, groups=tuple(more.get("groups", ())))  # type: ignore[arg-type]
    names = {1000: "alice", 1001: "a*"}
    return granted(parse(text.encode(), "luod.toml"), peer, lambda _: where, lambda uid: names[uid])


def test_without_a_file_every_user_has_a_share_and_root_is_not_bound() -> None:
    anybody, root = grant(""), grant("", uid=0)
    assert anybody.allows("any/name")
    assert (anybody.sessions, anybody.connections, anybody.may_update, anybody.on_owner_death) == (
        64,
        128,
        False,
        "hold",
    )
    assert (root.sessions, root.may_update) == (1024, True)


def test_the_first_rule_that_holds_counts_and_the_default_fills_it_up() -> None:
    text = """
    [default]
    names = ["no"]
    connections = 2
    [[rules]]
    uid = 1000
    gid = 50
    sessions = 1
    [[rules]]
    uid = 1000
    sessions = 2
    may-update = true
    [[rules]]
    uid = 0
    sessions = 3
    """
    assert [grant(text, gid=50).sessions, grant(text).sessions, grant(text, uid=0).sessions] == [1, 2, 3]
    assert grant(text, gid=7, groups=(5, 50)).sessions == 1
    assert (grant(text).may_update, grant(text, gid=50).may_update) == (True, False)
    assert grant(text).connections == grant(text, uid=1001).connections == 2
    assert not grant(text).allows("yes")


def test_the_user_that_stands_for_many_has_no_rule() -> None:
    uid = overflow_uid()
    assert grant(f"[[rules]]\nuid = {uid}\nsessions = 1", uid=uid).sessions == 64


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("unit = 'qemu@vm1.service'", True),
        ("unit = 'qemu@*.service'", True),
        ("unit = 'qemu@.service'", False),
        ("unit = 'payload.service'", False),
        ("cgroup = '/system.slice'", True),
        ("cgroup = '/system.slice/'", True),
        ("cgroup = '/system.slice/qemu@vm1.service'", True),
        ("cgroup = '/*/qemu@*'", True),
        ("cgroup = '/*/payload'", False),
        ("cgroup = '/system'", False),
        ("cgroup = '/machine.slice'", False),
    ],
)
def test_by_unit_and_cgroup(condition: str, holds: bool) -> None:
    assert (grant(f"[[rules]]\n{condition}\nsessions = 1", where=VM).sessions == 1) is holds
    assert grant(f"[[rules]]\n{condition}\nsessions = 1", where=NOWHERE).sessions == 64


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [
        ("{user}/*", "alice/vm", True),
        ("{user}/*", "alice/vm#12", True),
        ("{user}/*", "bob/vm", False),
        ("{user}", "alice#3", True),
        ("{user}", "alice#x", False),
        ("{unit}", "qemu@vm1", True),
        ("{unit}", "qemu@vm2", False),
        ("vm-?", "vm-1", True),
        ("vm-?", "vm-12", False),
        ("a.c", "abc", False),
    ],
)
def test_a_pattern_allows_the_names_of_its_user_or_unit_only(pattern: str, name: str, allowed: bool) -> None:
    assert grant(f"[default]\nnames = ['{pattern}']", where=VM).allows(SessionName.parse(name).base) is allowed


def test_what_a_user_is_called_is_no_wildcard() -> None:
    rule = "[default]\nnames = ['{user}']"
    assert grant(rule, uid=1001).allows("a*")
    assert not grant(rule, uid=1001).allows("alice")


def test_who_runs_in_no_unit_has_no_name_of_one() -> None:
    assert not grant("[default]\nnames = ['{unit}*']").allows("x")


def test_closed_takes_nothing_new_on_but_from_root() -> None:
    nobody = granted(CLOSED, Peer(5, 5, 5, None), lambda _: NOWHERE, str)
    root = granted(CLOSED, Peer(0, 0, 5, None), lambda _: NOWHERE, str)
    assert (nobody.allows("vm"), root.allows("vm")) == (False, True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0::/system.slice/a.service", Membership("/system.slice/a.service", "a.service")),
        ("0::/a.slice/a-b.slice/x.scope/y.service", Membership("/a.slice/a-b.slice/x.scope/y.service", "x.scope")),
        (
            "0::/user.slice/user-7.slice/user@7.service/app.slice/root.service",
            Membership("/user.slice/user-7.slice/user@7.service/app.slice/root.service", "user@7.service"),
        ),
        ("0::/../../a.service", NOWHERE),
        ("0::/", Membership("/", None)),
        (
            "3:memory:/m\n1:name=systemd:/system.slice/a.service\n0::/",
            Membership("/system.slice/a.service", "a.service"),
        ),
        ("3:memory:/m", Membership("/", None)),
    ],
)
def test_membership_is_read_of_a_process_that_lives(tmp_path: Path, line: str, expected: Membership) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(line + "\n")
    with Fd(os.pidfd_open(os.getpid())) as alive:
        assert membership.of(Peer(1, 1, 7, alive), str(tmp_path)) == expected
    assert membership.of(Peer(1, 1, 7, None), str(tmp_path)) == NOWHERE


def test_membership_of_a_process_that_ended_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text("0::/system.slice/a.service\n")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    with Fd(os.pidfd_open(pid)) as ended:
        os.waitid(os.P_PIDFD, ended.fileno(), os.WEXITED)
        assert membership.of(Peer(1, 1, 7, ended), str(tmp_path)) == NOWHERE
