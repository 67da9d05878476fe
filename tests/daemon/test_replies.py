"""`luod.daemon.replies`: what the kernel said arrives at whoever asked luod, over either interface, as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from asyncvarlink import TypedVarlinkErrorReply

from luod import errors
from luod.daemon import replies
from luod.ipc.framing import to_error


@pytest.mark.parametrize("answer", [replies.kernel_refused, replies.refused_by_kernel])
def test_what_the_kernel_refused_arrives_with_its_errno_call_and_meaning(
    answer: Callable[[errors.KernelRefused], TypedVarlinkErrorReply],
) -> None:
    reply = answer(errors.KernelRefused(16, "kexec_file_load", "somebody else loads", hint="try again"))
    error = to_error(reply.name, reply.paramstojson())
    assert type(error) is errors.KernelRefused
    assert (error.errno, error.call, error.meaning) == (16, "kexec_file_load", "somebody else loads")
    assert error.hint == "try again"
