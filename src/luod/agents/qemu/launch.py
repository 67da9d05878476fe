"""Starts a guest, from the beginning or where the last kernel left it, and stays with it until its QEMU ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from luod.agents.guests import lock, ownership, pairing, state
from luod.agents.guests.carried import Report
from luod.agents.guests.deadline import QEMU_SECONDS
from luod.agents.guests.pairing import RAM, RUNNING, STATE
from luod.agents.guests.resuming import resume
from luod.agents.qemu import command_line, compare, control, disk_locks, process, programs, record
from luod.agents.qemu.capabilities import Capabilities
from luod.agents.qemu.command_line import Plan
from luod.agents.qemu.guest import Guest
from luod.agents.qemu.process import Qemu
from luod.aio import AsyncClient
from luod.errors import AlreadyResumed, BadInput, NoSuchSession, QemuRefusal, Torn
from luod.linux import Fd
from luod.liveupdate import memory


async def run(client: AsyncClient, name: str, command: Sequence[str], report: Report, *, populate: bool = True) -> int:
    """Starts a guest by `command`, a QEMU and its arguments. Returns QEMU's exit status, when it has ended.

    Raises QemuRefusal, before anything is started: the guest could not be carried, its session waits to be restored in
    this kernel or in the next, a session of its name is of another user, or another launcher has this guest.
    Raises Refused: a participant answers for the session. Raises QemuEnded: QEMU could not start.
    """
    if not command:
        raise BadInput("no command: give a QEMU and its arguments")
    with _alone(client, name):
        return await _run(client, name, command, report, populate=populate)


async def _run(client: AsyncClient, name: str, command: Sequence[str], report: Report, *, populate: bool) -> int:
    if await ownership.waits(client, name):
        raise QemuRefusal(
            f"the guest {name} waits in a session of the last kernel",
            hint=f"restore it with `luoctl qemu restore {name}`, or give it up with `luoctl discard {name}`",
        )
    await ownership.require_not_carried_over(client, name)
    file, capabilities = await programs.asked(command[0], command[1:])
    plan = command_line.plan(command[1:], capabilities)
    await ownership.release_earlier(client, name)
    with await asyncio.to_thread(memory, plan.ram_bytes, f"luod-{name}", populate=populate) as ram:
        async with _started(plan, ram, incoming=False) as qemu:
            await qemu.meet()
            report(f"runs on {plan.machine} of QEMU {capabilities.version}")
            for note in plan.notes:
                report(note)
            guest = Guest(name, record.of_plan(plan, capabilities, file), qemu, ram, client, report)
            return await guest.carry()


async def restore(
    client: AsyncClient,
    name: str,
    report: Report,
    *,
    program: str | None = None,
    paused: bool = False,
    instead: Sequence[str] = (),
    if_guest: bool = False,
) -> int:
    """Continues a guest where the last kernel left it. Returns QEMU's exit status, when it has ended.

    If `if_guest`, a session of another program is left to that one, and the result is 0. `program` is another QEMU to
    run it with. `paused` leaves it as it was loaded, until `cont` at a monitor of its own. `instead` is what would
    start it from the beginning: how the guest differs from that is reported. An error before the guest runs leaves its
    session with luod, for another try; afterwards it cannot be repeated.

    Raises NoSuchSession, Torn, AlreadyResumed. Raises QemuRefusal: the session is of another user, a live process has
    the guest, memory and state are of different updates, or this QEMU cannot run the guest. Raises QemuError: the state
    does not fit it. Raises NotEnoughMemory.
    """
    with _alone(client, name):
        return await _restore(client, name, report, program=program, paused=paused, instead=instead, if_guest=if_guest)


async def _restore(
    client: AsyncClient,
    name: str,
    report: Report,
    *,
    program: str | None = None,
    paused: bool = False,
    instead: Sequence[str] = (),
    if_guest: bool = False,
) -> int:
    # The agent of another kind of guest may look at the same session (`restore --all`), and ends then.
    found = await ownership.waits(client, name, within=ownership.LOOK_SECONDS if if_guest else 0.0)
    if found and if_guest and not await ownership.is_of(client, name, record.AGENT):
        report("is no guest of QEMU, and is left to its own program")
        return 0
    restored = await client.restore(name) if found else None
    if restored is None:
        raise NoSuchSession(2, "", f"the last kernel left no session of {name}", hint="start the guest with `run`")
    with restored:
        said = restored.running.about
        written = record.read(name, said)
        of_state = {} if restored.frozen is None else restored.frozen.about
        pairing.check_generation(name, said, of_state, restored.generation)
        file, capabilities = await programs.for_record(written, program)
        plan = command_line.plan(written.arguments, capabilities, machine=written.machine)
        if instead:
            _told_apart(plan, instead, capabilities, report)
        # Held here until the guest has ended: QEMU may fail, and another one then gets the same memory.
        begun = time.monotonic()
        with await restored.retrieve(RAM) as ram:
            report(f"has its {plan.ram_bytes >> 20} MiB of memory, retrieved in {time.monotonic() - begun:.3f} s")
            async with _started(plan, ram, incoming=True) as qemu:
                with await restored.retrieve(STATE) as device_state:
                    await qemu.meet()
                    goes_on = paused or bool(of_state.get(RUNNING))
                    file_uri = capabilities.file_uri
                    await state.load(qemu.qmp, device_state, file_uri=file_uri, within=QEMU_SECONDS, goes_on=goes_on)
                if paused and not await _continued_by_hand(qemu, report):
                    return await qemu.wait()
                runs = bool(of_state.get(RUNNING)) and not paused
                guest = Guest(name, record.of_plan(plan, capabilities, file), qemu, ram, client, report)
                go_on = guest.go_on_restored if runs else None
                if runs:
                    await disk_locks.free(qemu.qmp, plan.arguments, report, lambda: qemu.ended)
                await resume(restored, qemu.qmp, report, go_on, has_ended=lambda: qemu.ended)
                how = "is paused" if guest.stuck else "goes on"
                report(f"{how} in this kernel, on {plan.machine} of QEMU {capabilities.version}")
                return await guest.carry(patiently=True)


async def start(client: AsyncClient, name: str, command: Sequence[str], report: Report) -> int:
    """Continues the guest where the last kernel left it, or else starts it by `command`. Returns QEMU's exit status.

    A guest that cannot be continued since its memory is torn, or was changed since, is started from the beginning,
    unless a live process has it. Any other failure to continue it raises the errors of `restore`, and its session is
    kept.
    """
    with _alone(client, name):
        if await ownership.waits(client, name):
            try:
                return await _restore(client, name, report, instead=command)
            except (Torn, AlreadyResumed) as error:
                await ownership.waits(client, name)  # another process may have retrieved and resumed it meanwhile
                report(f"is lost, and starts from the beginning: {error}")
                await client.discard(name)
        return await _run(client, name, command, report, populate=True)


@contextlib.contextmanager
def _alone(client: AsyncClient, name: str) -> Iterator[None]:
    """Keeps other launchers from the guest in the block. Raises QemuRefusal: another one has it.

    Where there is no place for the lock, luod keeps them apart as soon as one has retrieved the guest or takes part.
    """
    with contextlib.ExitStack() as stack:
        path = control.lock(name, client.path)
        try:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            stack.enter_context(lock.held(path, f"the guest {name}", at_its_end="the guest ends with that process"))
        except OSError:
            pass
        yield


def _told_apart(plan: Plan, command: Sequence[str], capabilities: Capabilities, report: Report) -> None:
    """Reports how a guest that is continued differs from what `command` would start: it stays what it is."""
    try:
        found = compare.differences(plan, command_line.plan(command[1:], capabilities, machine=plan.machine))
    except QemuRefusal as error:
        found = (str(error),)
    if found:
        report(f"stays as it was started, until it is started from the beginning: {'; '.join(found)}")


async def _continued_by_hand(qemu: Qemu, report: Report) -> bool:
    """Waits until the guest is continued at its own monitor. Returns False if QEMU ended before."""
    async with qemu.qmp.events("RESUME") as following:
        resumed = asyncio.ensure_future(following())
        ended = asyncio.ensure_future(qemu.wait())
        report("is paused; `cont` at its own monitor continues it, ending QEMU keeps its session")
        tasks: set[asyncio.Future[Any]] = {resumed, ended}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        return resumed.done() and not resumed.cancelled()


@contextlib.asynccontextmanager
async def _started(plan: Plan, ram: Fd, *, incoming: bool) -> AsyncIterator[Qemu]:
    """Runs the QEMU of `plan` in the block, and ends it afterwards. SIGTERM and SIGINT end it, too."""
    qemu = await process.started(plan, ram, incoming=incoming)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, qemu.ask_to_end)
    try:
        yield qemu
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        await qemu.end()
