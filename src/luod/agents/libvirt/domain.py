"""A domain as libvirt has it: what libvirt says about it, and the QEMU that runs it."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import pwd
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from typing import Final, Self

from luod.agents.libvirt import description
from luod.agents.libvirt.description import Description
from luod.agents.libvirt.lent import User
from luod.agents.libvirt.monitor import DomainMonitor
from luod.agents.libvirt.virsh import virsh
from luod.errors import LibvirtFailed, QemuEnded, QemuRefusal
from luod.frozen import frozen
from luod.linux import Fd, Resource, has_ended, memfd, memory_identity, pidfd_getfd

_PIDS: Final = "/run/libvirt/qemu"
_UUID: Final = re.compile("[0-9a-fA-F-]{36}")
_RUNNING: Final = ("running", "idle", "paused", "in shutdown", "pmsuspended")


def check_name(name: str) -> None:
    """Raises QemuRefusal: virsh looks for an id or a UUID first, and could end another domain by this name."""
    if (name.isascii() and name.isdigit()) or _UUID.fullmatch(name):
        raise QemuRefusal(
            f"virsh takes the name {name} for the id or the UUID of a domain, which may be another one",
            hint="rename the domain (`virsh domrename UUID NAME`)",
        )


@frozen
class Facts:
    """What libvirt says about a domain."""

    active: bool
    persistent: bool
    autostart: bool
    managed_save: bool


async def facts(name: str) -> Facts:
    """Returns what libvirt says about the domain `name`; for a domain that it does not know, all False.

    Raises LibvirtFailed: libvirt does not answer.
    """
    try:
        return read_facts(await virsh("dominfo", "--domain", name))
    except LibvirtFailed:
        if name in (await virsh("list", "--all", "--name")).splitlines():
            raise
        return read_facts("")


def read_facts(printed: str) -> Facts:
    """Returns what `virsh dominfo` printed."""
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in printed.splitlines())}
    return Facts(
        active=said.get("State") in _RUNNING,
        persistent=said.get("Persistent") == "yes",
        autostart=said.get("Autostart") == "enable",
        managed_save=said.get("Managed save") == "yes",
    )


async def defined(name: str) -> Description:
    """Returns the domain as it is started from the beginning. Raises LibvirtFailed. Raises QemuRefusal: its name."""
    return _named(name, await virsh("dumpxml", "--domain", name, "--inactive", "--security-info"))


async def saved(name: str) -> Description:
    """Returns the domain of a managed save. Raises LibvirtFailed: the domain has no managed save."""
    return _named(name, await virsh("managedsave-dumpxml", "--domain", name, "--security-info"))


async def running(name: str) -> Description:
    """Returns the running domain, also with what was plugged in, as libvirt gives it to another host for a migration.

    Raises LibvirtFailed: it does not run.
    """
    return _named(name, await virsh("dumpxml", "--domain", name, "--migratable", "--security-info"))


def _named(name: str, text: str) -> Description:
    """Returns the description. A number is the domain's id to virsh, before it is a name."""
    found = description.read(text)
    if found.name != name:
        raise QemuRefusal(
            f"libvirt takes {name!r} for another name of the domain {found.name!r}",
            hint="use the domain's name, which must not be the number of another domain",
        )
    return found


async def user(domain: Description) -> User:
    """Returns whom libvirt runs the domain's QEMU as. Raises QemuRefusal: libvirt does not say so."""
    return read_user(await virsh("capabilities"), domain)


def read_user(capabilities: str, domain: Description) -> User:
    """Returns whom libvirt with these capabilities runs the domain's QEMU as. Raises QemuRefusal."""
    models = [
        model
        for model in ElementTree.fromstring(capabilities).iterfind("host/secmodel")
        if model.findtext("model") == "dac"
    ]
    if not models:
        return User(os.geteuid(), os.getegid())
    labels = {each.get("type"): (each.text or "") for each in models[0].iterfind("baselabel")}
    label = domain.label("dac") or labels.get(domain.kind, "")
    name, _, group = label.partition(":")
    try:
        return User(_number(name, pwd.getpwnam), _number(group, grp.getgrnam))
    except (KeyError, ValueError):
        raise QemuRefusal(
            f"libvirt runs this domain's QEMU as {label!r}, and this host has no such user and group",
            hint="see `virsh capabilities`, and user= and group= in /etc/libvirt/qemu.conf",
        ) from None


def _number(text: str, entry: object) -> int:
    if text.startswith("+"):
        return int(text[1:])
    if not text:
        raise ValueError(text)
    found: Sequence[object] = entry(text)  # type: ignore[operator]  # getpwnam or getgrnam
    number = found[2]
    assert isinstance(number, int)
    return number


async def created(domain: Description, ram: str, *, incoming: bool) -> None:
    """Starts the domain on the RAM at the path `ram`. If `incoming`, it waits for its state, paused.

    Its definition in libvirt stays as it is. Raises LibvirtFailed.
    """
    with memfd("luod-domain", 0) as file:
        os.write(file.fileno(), domain.started(ram, incoming=incoming).encode())
        paused = ("--paused",) if incoming else ()
        await virsh("create", "--file", f"/proc/self/fd/{file.fileno()}", *paused, files=[file])


class DomainQemu(Resource):
    """The QEMU that runs a domain. It belongs to libvirt; this object has its process fd."""

    def __init__(self, name: str, pid: int, process: Fd) -> None:
        """Takes ownership of the pidfd `process`."""
        self.name = name
        self.pid = pid
        self._process = process
        self.monitor = DomainMonitor(name, lambda: self.ended)

    @classmethod
    def of(cls, name: str) -> Self:
        """Returns the QEMU of the domain `name`; the caller owns the object. Raises QemuEnded: none runs."""
        try:
            with open(f"{_PIDS}/{name}.pid", encoding="ascii") as file:
                pid = int(file.read())
            return cls(name, pid, Fd(os.pidfd_open(pid)))
        except (OSError, ValueError) as error:
            raise QemuEnded(f"no QEMU runs the domain {name}: {error}", hint="see `virsh domstate --reason`") from error

    @property
    def ended(self) -> bool:
        """Returns whether it has ended."""
        return has_ended(self._process)

    async def wait(self) -> None:
        """Returns when it has ended."""
        loop = asyncio.get_running_loop()
        end = asyncio.Event()
        loop.add_reader(self._process.fileno(), end.set)
        try:
            await end.wait()
        finally:
            loop.remove_reader(self._process.fileno())

    def ram(self, size: int) -> Fd:
        """Returns a duplicate of the memfd with the guest's RAM of `size` bytes; the caller owns it.

        Its name says nothing: a memfd that came over a kexec has none. Raises QemuRefusal: QEMU has no memfd of this
        size, or several.
        """
        found: dict[tuple[int, int], Fd] = {}
        for file in self._memfds():
            identity = memory_identity(file)
            if identity is None or identity in found or os.fstat(file.fileno()).st_size != size:
                file.close()
            else:
                found[identity] = file
        if len(found) != 1:
            for file in found.values():
                file.close()
            raise QemuRefusal(
                f"the QEMU of the domain {self.name} has {len(found)} memfds of the size of its RAM, instead of one",
                hint=f"shut the domain down, and start it by `luoctl libvirt run {self.name}`",
            )
        return next(iter(found.values()))

    def require(self, ram: Fd) -> None:
        """Raises QemuRefusal: this QEMU does not have the caller's memfd `ram`."""
        wanted, found = memory_identity(ram), False
        for file in self._memfds():
            with file:
                found = found or memory_identity(file) == wanted
        if not found:
            raise QemuRefusal(
                f"the QEMU of the domain {self.name} runs on other memory than the agent gave it",
                hint=f"shut the domain down, and start it by `luoctl libvirt run {self.name}`",
            )

    def _memfds(self) -> Iterator[Fd]:
        for entry in os.scandir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(OSError):  # QEMU closed it meanwhile
                if os.readlink(entry.path).startswith("/memfd:"):
                    yield pidfd_getfd(self._process.fileno(), int(entry.name))

    def close(self) -> None:
        self._process.close()


async def end(name: str) -> None:
    """Ends the domain's QEMU, and with it the guest. Does nothing if none runs."""
    with contextlib.suppress(LibvirtFailed):
        await virsh("destroy", "--domain", name)
