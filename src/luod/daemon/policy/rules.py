"""The meaning of the policy: the rule of a peer, the names it may use, and its limits.

The first rule with conditions that all hold applies to the peer. `[default]` applies to a peer without a rule, but not
to root. There are no system calls except those of `membership`. `luod.decode` reads the annotations.
"""

import re
from functools import lru_cache

from luod.daemon.policy.membership import NOWHERE, Membership
from luod.daemon.store.schema import MOST_SESSIONS
from luod.frozen import frozen
from luod.ipc.types.phases import Way
from luod.static import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from luod.ipc.server.peer import Peer

OnOwnerDeath = Literal["hold", "discard"]

SESSIONS: "Final" = 64
CONNECTIONS: "Final" = 128
ALL_CONNECTIONS: "Final" = 1024


@frozen
class Terms:
    """The terms of a rule or of `[default]`; None: `[default]` decides. `sessions` and `connections` are per uid."""

    names: tuple[str, ...] | None = None
    sessions: int | None = None
    connections: int | None = None
    may_update: bool | None = None
    on_owner_death: OnOwnerDeath | None = None


@frozen
class Rule(Terms):
    """A rule. All given conditions of `uid`, `gid`, `unit` and `cgroup` must hold."""

    uid: int | None = None
    gid: int | None = None
    unit: str | None = None
    cgroup: str | None = None

    @property
    def conditions(self) -> tuple[int | str | None, ...]:
        return self.uid, self.gid, self.unit, self.cgroup


@frozen
class HookCommands:
    """Commands around an update, () for none; each has a limit of `timeout` seconds."""

    before_update: tuple[str, ...] = ()
    after_update: tuple[str, ...] = ()
    timeout: float = 60.0


@frozen
class Settings:
    """The file. Times are seconds; `reaper` is a command, () for the built-in one.

    `all_connections` are those of all users except root. `update_way` is that of an update whose operator names none.
    """

    default: Terms = Terms()
    rules: tuple[Rule, ...] = ()
    restore_deadline: float | None = None
    reaper: tuple[str, ...] = ()
    reaper_timeout: float = 60.0
    hooks: HookCommands = HookCommands()
    all_connections: int = ALL_CONNECTIONS
    update_way: Way = "direct"
    inhibit_shutdown: bool = True


@frozen
class Granted:
    """The complete terms of one peer. `shown` are the patterns as the operator wrote them. `named`: they come from a
    rule.
    """

    names: tuple[re.Pattern[str], ...]
    shown: tuple[str, ...]
    sessions: int
    connections: int
    may_update: bool
    on_owner_death: OnOwnerDeath
    named: bool = False

    def allows(self, workload: str) -> bool:
        return any(pattern.fullmatch(workload) for pattern in self.names)


CLOSED: "Final" = Settings(default=Terms(names=()))
"""For a policy that exists and cannot be read: held sessions are served, and no new ones created."""


def granted(
    settings: Settings,
    peer: "Peer",
    membership: "Callable[[Peer], Membership]",
    user: "Callable[[int], str] | None",
) -> Granted:
    """Returns the terms of a peer.

    `membership` and `user`, which returns the name of a uid, are used only if a rule or a name depends on it. Without
    `user` no names are granted.
    """
    where = NOWHERE
    if any(rule.unit is not None or rule.cgroup is not None for rule in settings.rules):
        where = membership(peer)
    rule = None
    if not peer.anonymous:
        rule = next((rule for rule in settings.rules if _holds(rule, peer, where)), None)
    if rule is None and peer.root:
        return Granted((_compiled("*", "", ""),), ("*",), MOST_SESSIONS, CONNECTIONS, True, "hold")
    terms = [terms for terms in (rule, settings.default) if terms is not None]
    names: tuple[str, ...] = next((t.names for t in terms if t.names is not None), ("*",)) if user else ()
    if any("{unit}" in name for name in names) and where is NOWHERE:
        where = membership(peer)
    called = user(peer.uid) if user and any("{user}" in name for name in names) else ""
    own = (where.unit or "").rpartition(".")[0]
    return Granted(
        tuple(_compiled(name, called, own) for name in names if own or "{unit}" not in name),
        names,
        next((t.sessions for t in terms if t.sessions is not None), SESSIONS),
        next((t.connections for t in terms if t.connections is not None), CONNECTIONS),
        next((t.may_update for t in terms if t.may_update is not None), False),
        next((t.on_owner_death for t in terms if t.on_owner_death is not None), "hold"),
        rule is not None,
    )


def _holds(rule: Rule, peer: "Peer", where: Membership) -> bool:
    if rule.uid is not None and rule.uid != peer.uid:
        return False
    if rule.gid is not None and rule.gid != peer.gid and rule.gid not in peer.groups:
        return False
    if rule.unit is not None and (where.unit is None or not _glob(rule.unit, ".*").fullmatch(where.unit)):
        return False
    if rule.cgroup is None:
        return True
    # A cgroup and all cgroups below it.
    return where.cgroup is not None and bool(_glob(rule.cgroup.rstrip("/"), "[^/]*").match(where.cgroup + "/"))


@lru_cache(maxsize=1024)
def _compiled(pattern: str, user: str, unit: str) -> re.Pattern[str]:
    """Returns the pattern with user and unit inserted literally: a `*` in them is not a wildcard."""
    values = {"{user}": re.escape(user), "{unit}": re.escape(unit), "*": ".*", "?": "."}
    parts = re.split(r"(\{user\}|\{unit\}|\*|\?)", pattern)
    return re.compile("".join(values.get(part) or re.escape(part) for part in parts), re.DOTALL)


@lru_cache(maxsize=1024)
def _glob(pattern: str, star: str) -> re.Pattern[str]:
    """Returns a pattern for a path and a slash after it. `star` matches inside a part of the path."""
    body = "".join({"*": star, "?": "[^/]"}.get(part) or re.escape(part) for part in re.split(r"(\*|\?)", pattern))
    return re.compile(body + ("/" if star != ".*" else ""), re.DOTALL)
