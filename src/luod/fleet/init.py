"""PID 1 of an emulated host: `python3 -m luod.fleet.init FILE`. It runs again in each boot, as every init of luoemu.

It shows the next kernel's files, starts luod and the VMMs, and runs the commands that come over the host's socket. What
it mounts is in the machine's own mount namespace.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

from luod.emulator.machine import stub
from luod.emulator.machine.namespaces import MS_NODEV, MS_NOSUID, bind, mount
from luod.fleet import remote, setting
from luod.fleet.setting import Setting
from luod.testing.kernel.initramfs import Archive

_SLOW_SECONDS: Final = 3.0
"""Longer than luod gives the answer of `luoctl update --detach`."""
_OLD_BUILD_ID: Final = bytes(20)
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOTES: Final = "/sys/kernel/notes"
_MACHINE_ID: Final = "/etc/machine-id"
_STATE_BYTES: Final = 4 << 20
"""The size of a file system that is to be filled."""


def main(path: str) -> None:
    host = setting.read(path)
    boot = int(os.environ["LUOEMU_BOOT"])
    fault = None if host.fault is None else host.fault.fault
    if fault == "panic" and boot > 1:
        sys.exit(f"{host.name}: the next kernel panics")
    _show_image(host, boot)
    _show_identity(host)
    os.environ["PATH"] = f"{host.programs}:{_PATH}"
    os.environ["HOME"] = host.directory
    state = f"{host.directory}/state"
    os.makedirs(state, exist_ok=True)
    if fault == "disk-full":
        mount("tmpfs", state, "tmpfs", MS_NOSUID | MS_NODEV, f"size={_STATE_BYTES}")
    luod = _start_luod(state)
    if fault == "disk-full":
        _fill(state)
    _start_guests(host, boot)
    _serve(f"{host.directory}/ssh", _SLOW_SECONDS if fault == "slow-link" else 0.0)
    luod.wait()


def _show_image(host: Setting, boot: int) -> None:
    """Puts a file system with the next kernel's files in place of their directories. Raises OSError: there is no such
    directory.
    """
    build_id = bytes.fromhex(host.image.build_id)
    for directory in sorted({os.path.dirname(path) for path in (host.image.kernel, *host.image.initrds)}):
        mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    _write(host.image.kernel, stub.bzimage(host.image.release, build_id=build_id))
    for path in host.image.initrds:
        archive = Archive()
        archive.add("init", stat.S_IFREG | 0o755, data=b"#!/bin/sh\n")
        _write(path, archive.finished())
    if os.path.exists(_NOTES):
        # The running kernel is known by its build id; uname(2) is the real kernel's.
        _write("/run/notes", stub.build_id_note(_OLD_BUILD_ID if boot == 1 else build_id))
        bind("/run/notes", _NOTES)


def _show_identity(host: Setting) -> None:
    """Gives the host a name and a machine id of its own: lock servers know hosts by the latter."""
    socket.sethostname(host.name)
    if os.path.exists(_MACHINE_ID):
        _write("/run/machine-id", hashlib.sha256(host.name.encode()).hexdigest()[:32].encode() + b"\n")
        bind("/run/machine-id", _MACHINE_ID)


def _start_luod(state: str) -> subprocess.Popen[bytes]:
    """Starts luod, and returns when it is ready. It ends with this process."""
    command = [*_module("luod.testing.started"), *_module("luod.daemon.main"), "--state-directory", state]
    luod = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert luod.stdin is not None
    assert luod.stdout is not None
    luod.stdin.write(b"{}\n")
    luod.stdin.flush()
    if b'"ready"' not in luod.stdout.readline():
        sys.exit("luod does not start")
    return luod


def _fill(directory: str) -> None:
    with open(f"{directory}/filler", "wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


def _start_guests(host: Setting, boot: int) -> None:
    for number, name in enumerate(host.guests):
        fault = host.fault if number == 0 else None
        if fault is not None and fault.fault == "vmm-lost" and boot > 1:
            continue
        words = [] if fault is None else [fault.fault, fault.reason]
        subprocess.Popen([*_module("luod.fleet.guest"), name, str(host.guest_bytes), *words], stdin=subprocess.DEVNULL)


def _serve(path: str, late: float) -> None:
    """Runs commands until the host jumps, or its process is killed. Their answers are so many seconds `late`."""
    with remote.listening(path) as listener:
        while True:
            connection, _address = listener.accept()
            threading.Thread(target=_run, args=(connection, late), daemon=True).start()


def _run(connection: socket.socket, late: float) -> None:
    with connection:
        given = remote.receive(connection)
        if given is None:
            return
        command, files = given
        try:
            status = subprocess.call(
                ["/bin/sh", "-c", command],
                stdin=files[0],
                stdout=files[1],
                stderr=files[2],
                env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
                start_new_session=True,
            )
        finally:
            for file in files:
                os.close(file)
        time.sleep(late)
        remote.answer(connection, status)


def _module(name: str) -> Sequence[str]:
    return [sys.executable, "-m", name]


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


if __name__ == "__main__":
    main(sys.argv[1])
