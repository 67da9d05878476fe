"""Which process of this machine's /proc a peer is."""

from __future__ import annotations

import os
import signal
import socket

from luod.ipc.server.peer import Peer, peer_of
from luod.linux import Fd, has_ended


def test_a_peer_is_known_by_its_pidfd() -> None:
    one, other = socket.socketpair()
    with one, other:
        peer = peer_of(one)
        assert peer.process == os.getpid()
        peer.close()


def test_a_peer_that_ended_or_cannot_be_seen_is_no_process() -> None:
    assert Peer(0, 0, os.getpid(), None).process is None
    pid = os.fork()
    if pid == 0:
        signal.pause()
    with Fd(os.pidfd_open(pid)) as pidfd:
        peer = Peer(0, 0, pid, pidfd)
        assert peer.process == pid
        os.kill(pid, signal.SIGKILL)
        assert has_ended(pidfd, within=60)
        os.waitpid(pid, 0)
        assert peer.process is None
