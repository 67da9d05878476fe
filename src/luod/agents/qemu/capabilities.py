"""The capabilities of a QEMU: it is started without a guest, and asked for them over QMP.

Nothing is concluded from a version. A program that hangs, prints or is no QEMU ends in an error with a deadline.
"""

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import Sequence
from typing import Final

from luod.agents.guests.deadline import QEMU_SECONDS
from luod.agents.guests.schema import Schema
from luod.agents.qemu.qmp import Qmp
from luod.errors import QemuEnded, QemuError, QemuRefusal, QmpFailed
from luod.frozen import frozen

_WITHOUT_A_GUEST: Final = ("-machine", "none", "-nodefaults", "-no-user-config", "-S", "-display", "none")
_ENDINGS: Final = ("", "-pci", "-device", "-82540em")
_PRINTED: Final = 500


@frozen
class Capabilities:
    """What the QEMU `program` can do. `aliases` are pairs: a machine type's short name, and its name with a version.

    `modes` are those of `migrate-set-parameters`; () before QEMU 8.2. `lacks` are the drivers that were asked for and
    that it does not have.
    """

    program: str
    version: str
    machines: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...]
    default_machine: str
    modes: tuple[str, ...] = ()
    file_uri: bool = False
    aux_ram_share: bool = False
    monitor_object: bool = False
    lacks: tuple[str, ...] = ()

    @property
    def cpr_transfer(self) -> bool:
        """Returns whether it can hand a running guest to another QEMU on the same kernel, with its RAM."""
        return "cpr-transfer" in self.modes and self.aux_ram_share

    def versioned(self, machine: str) -> str:
        """Returns the machine type that a short name stands for in this QEMU; any other name as it is."""
        return dict(self.aliases).get(machine, machine)


async def probe(program: str, drivers: Sequence[str] = (), *, within: float = QEMU_SECONDS) -> Capabilities:
    """Starts `program`, asks it what it can do and which of the `drivers` it lacks, and ends it.

    Raises QemuRefusal: there is no such program. Raises QemuEnded: it is no QEMU, or does not answer
    within `within` seconds.
    """
    path = shutil.which(program)
    if path is None:
        raise QemuRefusal(f"there is no program {program!r} that may be run", hint="give the path of a QEMU")
    ours, theirs = socket.socketpair()
    try:
        monitor = ("-chardev", f"socket,id=luod-qmp,fd={theirs.fileno()}", "-mon", "chardev=luod-qmp,mode=control")
        process = await asyncio.create_subprocess_exec(
            path,
            *_WITHOUT_A_GUEST,
            *monitor,
            pass_fds=(theirs.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise QemuEnded(f"{path} cannot be started: {error.strerror}", hint="give the path of a QEMU") from error
    finally:
        theirs.close()
    printing = asyncio.ensure_future(_printed(process))
    try:
        async with asyncio.timeout(within), await Qmp.connected(ours, within=within) as qmp:
            return await _asked(qmp, path, drivers)
    except (QemuError, TimeoutError, LookupError, TypeError, ValueError) as error:
        _kill(process)
        raise QemuEnded(
            f"{path} does not answer as a QEMU: {str(error) or type(error).__name__}",
            hint=f"it printed: {await printing or 'nothing'}",
        ) from error
    finally:
        _kill(process)
        await printing
        await process.wait()


async def _asked(qmp: Qmp, program: str, drivers: Sequence[str]) -> Capabilities:
    schema = await qmp.asked("query-qmp-schema", Schema.of)
    machines = [entry for entry in await qmp.execute("query-machines") if entry["name"] != "none"]
    properties = await qmp.execute("qom-list-properties", {"typename": "machine"})
    lacks = [driver for driver in drivers if not await _has(qmp, driver)]
    return Capabilities(
        program=program,
        version=".".join(map(str, qmp.version)),
        machines=tuple(sorted(str(entry["name"]) for entry in machines)),
        aliases=tuple(sorted((str(entry["alias"]), str(entry["name"])) for entry in machines if "alias" in entry)),
        default_machine=next((str(entry["name"]) for entry in machines if entry.get("is-default")), ""),
        modes=schema.words("migrate-set-parameters", "mode"),
        file_uri=schema.has_file_uri,
        aux_ram_share=any(entry["name"] == "aux-ram-share" for entry in properties),
        monitor_object="monitor-qmp" in schema.words("object-add", "qom-type"),
        lacks=tuple(lacks),
    )


async def _has(qmp: Qmp, driver: str) -> bool:
    """Returns whether QEMU has the driver, also by a short name: virtio-blk is virtio-blk-pci."""
    for ending in _ENDINGS:
        try:
            await qmp.execute("device-list-properties", {"typename": f"{driver}{ending}"})
        except QmpFailed:
            continue
        return True
    return False


async def _printed(process: asyncio.subprocess.Process) -> str:
    """Returns the beginning of what the program prints, and reads the rest, so that it never waits for a reader."""
    assert process.stdout is not None
    kept = b""
    while read := await process.stdout.read(65536):
        kept = (kept + read)[:_PRINTED]
    return kept.decode(errors="replace").strip()


def _kill(process: asyncio.subprocess.Process) -> None:
    """Ends the program, and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
