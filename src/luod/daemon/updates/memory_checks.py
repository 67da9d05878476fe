"""Checks memory for the files that participants are about to preserve (docs/hazards.md, H1 and H2).

The checks are before a grant, and before freezing. Each takes the transaction, and returns it unchanged, or cancelled,
or without the members for which memory is short. `luod.daemon.memory_grants` has the needs of a PRESERVE.
"""

from __future__ import annotations

from luod.daemon import memory_grants
from luod.errors import NotEnoughMemory
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from luod.daemon.updates.follower import Follower
    from luod.daemon.updates.transaction import Transaction
    from luod.ipc.types.updates import DeclaredFile

_INIT: Final = 1
"""In its cgroup only the machine limits memory."""


def before_grant(transaction: Transaction, follower: Follower, now: float) -> Transaction:
    """Checks the files that `follower` preserves next."""
    return _fit(transaction, follower, follower.files("preparing"), follower.peer.process, follower.name, now)


def before_freezing(transaction: Transaction, followers: Iterable[Follower], now: float) -> Transaction:
    """Checks the files that the ready `followers` preserve while frozen, for each of them and for all together."""
    fitting: list[tuple[Follower, list[DeclaredFile]]] = []
    for follower in followers:
        files = follower.files("freezing")
        before = transaction
        transaction = _fit(transaction, follower, files, follower.peer.process, follower.name, now)
        if transaction is before:
            fitting.append((follower, files))
    return transaction if transaction.phase == "cancelled" else _fit_together(transaction, fitting, now)


def _fit_together(
    transaction: Transaction, wanted: list[tuple[Follower, list[DeclaredFile]]], now: float
) -> Transaction:
    everything = [file for _follower, files in wanted for file in files]
    try:
        memory_grants.require(everything, _INIT, "all that is written while frozen")
    except NotEnoughMemory as error:
        if not transaction.skip_unready:
            return transaction.cancel(error.message)
        everything = []
        for follower, files in wanted:
            if not files:
                continue
            before = transaction
            more = [*everything, *files]
            transaction = _fit(transaction, follower, more, _INIT, f"{follower.name} and those before it", now)
            if transaction is before:
                everything = more
    return transaction


def _fit(
    transaction: Transaction,
    follower: Follower,
    files: list[DeclaredFile],
    process: int | None,
    name: str,
    now: float,
) -> Transaction:
    """Returns the same transaction where memory suffices for `files`."""
    try:
        memory_grants.require(files, process, name)
    except NotEnoughMemory as error:
        return transaction.short(follower.id, error.message, now)
    return transaction
