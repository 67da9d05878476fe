"""How many files of unfinished calls a user, and all users, may have open in serve."""

from __future__ import annotations

import os

from luod.ipc.server.received import Budget, Received
from luod.linux import Fd

TABLE = 1024
OF_USER, OF_ALL, OF_UNNAMED = 64, 256, 192
A_MESSAGE = 16
A, B, C, D, ROOT = 1000, 1001, 1002, 1003, 0


def budget(**held: int) -> Budget:
    """Makes a budget in which users, by letter, hold `held`."""
    made = Budget(lambda: TABLE)
    for user, count in held.items():
        made.took(globals()[user], count)
    return made


def test_a_message_is_received_up_to_the_limit_of_its_user() -> None:
    assert budget(A=OF_USER - A_MESSAGE).refusal(A, named=False, most=A_MESSAGE) is None


def test_a_message_beyond_the_limit_of_its_user_is_refused() -> None:
    refusal = budget(A=OF_USER - A_MESSAGE + 1).refusal(A, named=True, most=A_MESSAGE)

    assert refusal == "luod holds 49 files of unfinished calls of uid 1000, and the limit is 64"


def test_the_limit_of_one_user_does_not_count_the_files_of_another() -> None:
    assert budget(A=OF_USER).refusal(B, named=False, most=A_MESSAGE) is None


def test_users_together_leave_a_quarter_for_users_that_a_rule_names() -> None:
    full = budget(A=OF_USER, B=OF_USER, C=OF_UNNAMED - 2 * OF_USER)

    assert full.refusal(D, named=False, most=A_MESSAGE) == (
        "luod holds 192 files of unfinished calls of all users but root, and the limit is 192"
    )
    assert full.refusal(D, named=True, most=A_MESSAGE) is None


def test_users_that_a_rule_names_have_a_limit_together_too() -> None:
    full = budget(A=OF_USER, B=OF_USER, C=OF_ALL - 2 * OF_USER)

    assert full.refusal(D, named=True, most=A_MESSAGE) == (
        "luod holds 256 files of unfinished calls of all users but root, and the limit is 256"
    )


def test_root_is_never_refused_and_its_files_do_not_count_for_others() -> None:
    full = budget(ROOT=10 * OF_ALL)

    assert full.refusal(ROOT, named=False, most=A_MESSAGE) is None
    assert full.refusal(A, named=False, most=A_MESSAGE) is None


def test_a_closed_file_does_not_count() -> None:
    freed = budget(A=OF_USER)
    for _ in range(A_MESSAGE):
        freed.closed(A)

    assert freed.refusal(A, named=False, most=A_MESSAGE) is None


def test_one_message_at_a_time_is_received_where_the_table_is_tiny() -> None:
    tiny = Budget(lambda: 20)

    assert tiny.refusal(A, named=False, most=A_MESSAGE) is None


def test_a_received_file_is_discarded_once_though_it_is_closed_twice() -> None:
    discarded: list[Fd] = []
    with Fd(os.open(os.devnull, os.O_RDONLY)) as file:
        received = Received(file, discarded.append)

        received.close()
        received.close()

        assert discarded == [file]


def test_a_file_that_is_closed_here_is_not_discarded_and_counts_no_more() -> None:
    discarded: list[Fd] = []
    gone: list[str] = []
    file = Fd(os.open(os.devnull, os.O_RDONLY))
    received = Received(file, discarded.append, lambda: gone.append("gone"))

    received.close_here()
    received.close()

    assert (file.closed, discarded, gone) == (True, [], ["gone"])
