"""Starts a domain, from the beginning or where the last kernel left it, and takes its part in updates until it ends."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

from luod.agents.guests import ownership, pairing, state
from luod.agents.guests.carried import Report
from luod.agents.guests.deadline import QEMU_SECONDS
from luod.agents.guests.pairing import RAM, RUNNING, STATE
from luod.agents.guests.resuming import resume
from luod.agents.guests.schema import Schema
from luod.agents.libvirt import description, domain, guest, lock, record, refusals
from luod.agents.libvirt.description import Description
from luod.agents.libvirt.domain import DomainQemu
from luod.agents.libvirt.guest import Domain
from luod.agents.libvirt.lent import lent
from luod.agents.libvirt.virsh import virsh
from luod.aio import AsyncClient, AsyncRestored
from luod.errors import AlreadyResumed, Busy, NoSuchSession, QemuRefusal, Refused, Torn
from luod.linux import Fd
from luod.liveupdate import memory
from luod.session_name import SessionName

_RELEASES: Final = 50
_RELEASE_PAUSE: Final = 0.2
"""How often the session of an agent that was killed is released, and the seconds between two attempts."""


async def run(client: AsyncClient, name: str, report: Report, *, populate: bool = True) -> int:
    """Starts the domain `name`, which libvirt has defined, and takes its part in updates. Returns 0 when it has ended.

    A domain that runs already with luod's memory is taken over from an agent that was killed. Raises QemuRefusal,
    before anything is started: it could not be carried, it runs without luod's memory, it waits in a session, or
    another agent has it. Raises LibvirtFailed: libvirt cannot start it. Raises Refused: luod has a session of another
    process by this name.
    """
    _check_caller(name)
    domain.check_name(name)
    with lock.held(name):
        return await _run(client, name, report, populate=populate)


async def _run(client: AsyncClient, name: str, report: Report, *, populate: bool) -> int:
    if await ownership.waits(client, name):
        raise QemuRefusal(
            f"the domain {name} waits in a session of the last kernel",
            hint=f"restore it with `luoctl libvirt restore {name}`, or give it up with `luoctl discard {name}`",
        )
    await ownership.require_not_carried_over(client, name)
    facts = await domain.facts(name)
    if facts.active and await _waits_for_state(name):
        # An attempt to restore it left this QEMU, and its session was given up since.
        await domain.end(name)
        facts = await domain.facts(name)
    if facts.active:
        return await _taken_over(client, name, report)
    if not facts.persistent:
        raise QemuRefusal(f"the domain {name} is not defined", hint="`virsh define` it")
    guest.refuse_autostart(name, facts)
    wanted = await domain.saved(name) if facts.managed_save else await domain.defined(name)
    refusals.check(wanted)
    if facts.managed_save and not wanted.of_luod:
        raise QemuRefusal(
            f"the domain {name} has a managed save without luod's memory",
            hint=f"`virsh start {name}`, shut it down, and start it by this command",
        )
    await ownership.release_earlier(client, name)
    guest.forget_pause(name)
    user = await domain.user(wanted)
    with await asyncio.to_thread(memory, wanted.ram_bytes, f"luod-{name}", populate=populate) as ram:
        async with lent(ram, user, name) as path:
            if facts.managed_save:
                await virsh("start", "--domain", name)
            else:
                await domain.created(wanted, path, incoming=False)
        with DomainQemu.of(name) as qemu:
            qemu.require(ram)
            report(f"runs, in process {qemu.pid}")
            return await (await _guest(qemu, ram, client, report)).carry(patiently=True)


async def restore(client: AsyncClient, name: str, report: Report, *, if_guest: bool = False) -> int:
    """Continues the domain where the last kernel left it. Returns 0 when it has ended.

    If `if_guest`, a session of another program is left to that one. An error before the guest runs leaves its session
    with luod, for another try; afterwards it cannot be repeated. Raises NoSuchSession, Torn, AlreadyResumed. Raises
    QemuRefusal: the session is of another user, a live process has it, memory and state are of different updates, the
    domain runs already, another agent has it, or libvirt makes another machine of it. Raises LibvirtFailed, QemuError,
    NotEnoughMemory.
    """
    _check_caller(name)
    with lock.held(name):
        return await _restore(client, name, report, if_guest=if_guest)


async def _restore(client: AsyncClient, name: str, report: Report, *, if_guest: bool) -> int:
    # The agent of another kind of guest may look at the same session (`restore --all`), and ends then.
    found = await ownership.waits(client, name, within=ownership.LOOK_SECONDS if if_guest else 0.0)
    if found and if_guest and not await ownership.is_of(client, name, record.AGENT):
        report("is no domain of libvirt, and is left to its own program")
        return 0
    domain.check_name(name)
    restored = await client.restore(name) if found else None
    if restored is None:
        raise NoSuchSession(2, "", f"the last kernel left no session of {name}", hint="start the domain with `run`")
    with restored:
        said = restored.running.about
        carried = record.read(name, said)
        of_state = {} if restored.frozen is None else restored.frozen.about
        pairing.check_generation(name, said, of_state, restored.generation)
        await _require_inactive(name)
        user = await domain.user(carried)
        begun = time.monotonic()
        with await restored.retrieve(RAM) as ram:
            report(f"has its {carried.ram_bytes >> 20} MiB of memory, retrieved in {time.monotonic() - begun:.3f} s")
            async with lent(ram, user, name) as path:
                await domain.created(carried, path, incoming=True)
            with DomainQemu.of(name) as qemu:
                running = bool(of_state.get(RUNNING))
                continued = await _loaded(restored, carried, qemu, ram, client, report, running=running)
                return await continued.carry(patiently=True)


async def start(client: AsyncClient, name: str, report: Report) -> int:
    """Continues the domain where the last kernel left it, or else starts it. Returns 0 when it has ended.

    A domain whose memory is torn, or was changed since, is started from the beginning; one that runs is taken over.
    Any other failure to continue it raises the errors of `restore`, and its session is kept.
    """
    _check_caller(name)
    domain.check_name(name)
    with lock.held(name):
        return await _start(client, name, report)


async def _start(client: AsyncClient, name: str, report: Report) -> int:
    if await ownership.waits(client, name):
        try:
            return await _restore(client, name, report, if_guest=False)
        except (Torn, AlreadyResumed) as error:
            await ownership.waits(client, name)  # another process may have retrieved and resumed it meanwhile
            report(f"cannot be restored: {error}")
            await client.discard(name)
    return await _run(client, name, report, populate=True)


def _check_caller(name: str) -> None:
    """Raises QemuRefusal: another user than root cannot make memory that libvirt's QEMU opens. Raises BadInput."""
    if SessionName.parse(name).generation is not None:
        raise QemuRefusal(f"{name}: no session can have this name", hint="rename the domain (`virsh domrename`)")
    if os.geteuid() != 0:
        raise QemuRefusal("only root can start domains of qemu:///system with memory of luod's", hint="use sudo")


async def _taken_over(client: AsyncClient, name: str, report: Report) -> int:
    """Takes the part of a domain that runs, whose agent has ended. Raises QemuRefusal: it has no memory of luod's."""
    found = await domain.running(name)
    if not found.of_luod:
        raise QemuRefusal(
            f"the domain {name} runs already, and its memory cannot be preserved",
            hint=f"shut it down, and start it by `luoctl libvirt run {name}`",
        )
    with DomainQemu.of(name) as qemu, qemu.ram(found.ram_bytes) as ram:
        await _released(client, name)
        continued = await _guest(qemu, ram, client, report)
        report(f"is taken over, in process {qemu.pid}")
        await continued.take_over()
        return await continued.carry(patiently=True)


async def _released(client: AsyncClient, name: str) -> None:
    """Releases what the last agent left, which an update that ends now may still have. Raises Refused: it lives."""
    for attempt in range(_RELEASES):
        try:
            await ownership.release_earlier(client, name)
            return
        except (Busy, Refused):
            if attempt == _RELEASES - 1:
                raise
            await asyncio.sleep(_RELEASE_PAUSE)


async def _require_inactive(name: str) -> None:
    """Ends what an earlier attempt to restore the domain left, before it had the guest.

    Raises QemuRefusal: the domain runs already, or may have run.
    """
    if not (await domain.facts(name)).active:
        return
    if await _waits_for_state(name):
        await domain.end(name)
        return
    if (await domain.running(name)).incoming:
        raise QemuRefusal(
            f"the domain {name} has the state of its session, and may have run since",
            hint=f"if it has not run in this kernel: `virsh destroy {name}`, and restore it. If it has, its session is "
            f"older than its disks: `luoctl discard {name}`",
        )
    raise QemuRefusal(
        f"the domain {name} runs already in this kernel, beside its session of the last one",
        hint=f"what it wrote to its disks since is not in the session: `luoctl discard {name}`",
    )


async def _waits_for_state(name: str) -> bool:
    """Returns whether the active domain has no guest yet: its QEMU waits for the state of one."""
    if not (await domain.running(name)).incoming:
        return False
    with DomainQemu.of(name) as qemu:
        return await state.status(qemu.monitor) == "inmigrate"


async def _loaded(
    restored: AsyncRestored,
    carried: Description,
    qemu: DomainQemu,
    ram: Fd,
    client: AsyncClient,
    report: Report,
    *,
    running: bool,
) -> Domain:
    """Returns the domain, which goes on in `qemu`.

    After an error before luod was told that it does, QEMU has ended; after a later one it has not, and `run` takes it
    over.
    """
    name = carried.name
    resuming = False
    try:
        qemu.require(ram)
        continued = await _guest(qemu, ram, client, report)
        if differs := description.differences(carried, continued.description):
            raise QemuRefusal(
                f"libvirt makes another machine of the domain {name} than it was: {'; '.join(differs)}",
                hint="restore it with the libvirt that ran it",
            )
        with await restored.retrieve(STATE) as device_state:
            file_uri = continued.file_uri
            await state.load(qemu.monitor, device_state, file_uri=file_uri, within=QEMU_SECONDS, goes_on=running)
        if running:
            guest.note_pause(name)  # an agent that is killed from now on leaves a domain that another one continues
        resuming = True
        go_on = continued.go_on_restored if running else None
        await resume(restored, qemu.monitor, report, go_on, has_ended=lambda: qemu.ended)
    except BaseException:
        if not resuming:
            await domain.end(name)
            guest.forget_pause(name)
        raise
    report(f"{'is paused' if continued.stuck else 'goes on'} in this kernel, in process {qemu.pid}")
    return continued


async def _guest(qemu: DomainQemu, ram: Fd, client: AsyncClient, report: Report) -> Domain:
    """Returns the running domain, as libvirt describes it now."""
    file_uri = (await qemu.monitor.asked("query-qmp-schema", Schema.of)).has_file_uri
    return Domain(await domain.running(qemu.name), qemu, ram, client, report, file_uri=file_uri)
