"""System calls that the standard library lacks: what tells processes apart."""

from __future__ import annotations

import os
import subprocess

from luod.linux import Fd, process_number


def test_a_process_has_one_number_and_another_process_has_another() -> None:
    with (
        subprocess.Popen(["cat"], stdin=subprocess.PIPE) as one,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE) as two,
        Fd(os.pidfd_open(one.pid)) as first,
        Fd(os.pidfd_open(one.pid)) as again,
        Fd(os.pidfd_open(two.pid)) as other,
    ):
        number = process_number(first)
        assert number == process_number(again) > 0
        assert process_number(other) not in (0, number)
        one.communicate()
        assert process_number(first) == number


def test_where_pidfds_share_one_inode_no_process_has_a_number() -> None:
    """Before Linux 6.9 they do; this process's own stands for any other there."""
    with Fd(os.pidfd_open(os.getpid())) as own:
        assert process_number(own) == 0
