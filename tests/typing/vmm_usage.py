"""How a typed VMM uses the library: checked by mypy in `make lint`, and never run. Not a test of pytest's.

Each `assert_type` fixes a type of the public surface, whose names are in tests/test_public_surface.py.
"""

from __future__ import annotations

from typing import assert_type

import luod
from luod.linux import Fd
from luod.manifest import Entry


def blocking(ram: Fd) -> None:
    with luod.Client("/run/luod/luod.sock", timeout=30.0, patience=60.0) as client:
        assert_type(client, luod.Client)
        restored = client.restore("vm-1")
        assert_type(restored, luod.Restored | None)
        if restored is not None:
            with restored:
                assert_type(restored["ram"], Fd)
                assert_type(restored.names, tuple[str, ...])
                assert_type(restored.generation, int | None)
                assert_type(restored.running, luod.HeldIncomingSession)
                assert_type(restored.frozen, luod.HeldIncomingSession | None)
                restored.resume()
                restored.finish()
        assert_type(client.discard("vm-1"), tuple[str, ...])
        session = client.create("vm-1")
        assert_type(session, luod.HeldOutgoingSession)
        assert_type(session.preserve(ram, name="ram"), int)
        assert_type(session.contents, tuple[Entry, ...])
        session.replace({1: ram}, drop=[2])
        session.release()
        incoming = client.retrieve("vm-1")
        assert_type(incoming.retrieve("ram"), Fd)
        assert_type(incoming.contents, tuple[Entry, ...] | None)
        incoming.finish(discard=True, tokens=[1])
        incoming.discard()
        assert_type(client.sessions(), tuple[luod.SessionInfo, ...])
        assert_type(client.describe("vm-1"), tuple[luod.Description, ...])
        client.stash("vm-1", {"ram": ram})
        assert_type(client.unstash("vm-1"), dict[str, Fd])
        client.drop_stash("vm-1")
        takes_part(client, session, ram)


def takes_part(client: luod.Client, session: luod.HeldOutgoingSession, ram: Fd) -> None:
    planned = [luod.PlannedFile("vm-1", 4096)]
    with luod.Participant("vm-1", [session], planned=planned, client=client) as participant:
        assert_type(participant.next(timeout=0.0), luod.Phase | None)
        for phase in participant:
            assert_type(phase, luod.Phase)
            with phase:
                with phase.create() as frozen:
                    assert_type(frozen, luod.HeldOutgoingSession)
                assert_type(phase.ready(), bool)
                assert_type(phase.veto("a backup is running"), bool)
                assert_type(phase.reason, str | None)
                assert_type(phase.frozen_devices, tuple[luod.FrozenDevice, ...] | None)


def bare(ram: Fd) -> None:
    """Uses the device of a machine without luod: the same verbs, without those that are luod's."""
    with luod.LiveUpdate() as device, device.create_session("vm-1") as session:
        assert_type(session, luod.OutgoingSession)
        luod.Participant("vm-1", [session])


async def with_asyncio(ram: Fd) -> None:
    async with luod.AsyncClient("/run/luod/luod.sock", timeout=30.0, patience=60.0) as client:
        assert_type(client, luod.AsyncClient)
        restored = await client.restore("vm-1")
        assert_type(restored, luod.AsyncRestored | None)
        if restored is not None:
            with restored:
                assert_type(await restored["ram"], Fd)
                await restored.resume()
                await restored.finish()
        session = await client.create("vm-1")
        assert_type(session, luod.AsyncHeldOutgoingSession)
        assert_type(await session.preserve(ram, name="ram"), int)
        async with luod.AsyncParticipant("vm-1", [session], client=client) as participant:
            assert_type(await participant.next(timeout=0.0), luod.AsyncPhase | None)
            async for phase in participant:
                async with phase:
                    with await phase.create() as frozen:
                        assert_type(frozen, luod.AsyncHeldOutgoingSession)
                    assert_type(await phase.ready(), bool)
