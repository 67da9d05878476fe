"""Starts the processes of one boot: the keeper, which makes the namespaces and waits, and init, which becomes COMMAND.

Both are forked from `luoemu` and report to it over a channel (`channel.py`). The keeper reports the mounts it made and
init's exit status. Init sends the listener of its filter. When `luoemu` dies, its end of the channel closes: the keeper
kills init, and the kernel then kills init's descendants. `running.py` answers their calls and decides what follows.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from luod.emulator.machine import access, capabilities, channel, namespaces, nodes
from luod.emulator.machine.faults import own_fault
from luod.emulator.trap.seccomp import bpf
from luod.linux import Fd

_ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


@dataclass(frozen=True)
class Order:
    """The parameters of a boot. `environment` is init's whole environment."""

    command: Sequence[str]
    environment: Mapping[str, str]
    command_line: str
    profile: str
    """The name of the kernel's rules, which the machine shows in a file."""
    share_network: bool
    images: Mapping[str, tuple[str, ...]]
    """Kernel images for init: paths, and the formats that the kernel in each speaks."""
    with_device: bool
    """Whether this kernel has /dev/liveupdate."""
    trap_opens: bool
    """Trap opens and do not try FUSE."""
    open_files: tuple[int, int]
    """init's RLIMIT_NOFILE."""
    signal_mask: frozenset[int]
    """init's blocked signals."""
    device_places: tuple[str, ...] = ()
    """The paths relative to /sys that show the machine's devices; () for a machine without devices."""
    init: Callable[[Mapping[str, str]], NoReturn] | None = None
    """Runs in place of COMMAND, in the fork that would exec it, and is given `environment`."""


def start(order: Order) -> tuple[int, socket.socket]:
    """Forks the keeper. Returns its pid, which the caller must wait for, and the channel, which the caller owns."""
    ours, theirs = channel.pair()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _keeper(order, theirs)
    theirs.close()
    return pid, ours


def _keeper(order: Order, supervisor: socket.socket) -> NoReturn:
    """Runs the keeper until init ends. Its exit status has no meaning; it reports over the channel."""
    try:
        namespaces.die_with_parent()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
        _close_private_fds(keep=supervisor.fileno())
        status = _keep(order, supervisor)
        channel.send(supervisor, {"status": status})
    except OSError as error:
        channel.send(supervisor, {"error": _in_words(error)})
    except BaseException as error:  # noqa: BLE001 - no caller may continue: this process is a copy of `luoemu`
        traceback.print_exc()
        channel.send(supervisor, {"error": own_fault(error)})
    finally:
        os._exit(0)


def _keep(order: Order, supervisor: socket.socket) -> int:
    uid = os.getuid()
    access.require()
    try:
        privileged = namespaces.enter(share_network=order.share_network)
    except OSError as error:
        raise OSError(
            error.errno,
            f"this host gives uid {uid} no namespaces ({error.strerror}): {access.remedies(namespaces.remedy())}",
        ) from None
    namespaces.die_with_parent()  # Again: the kernel clears it when credentials change.
    shown = nodes.furnish(order.command_line, order.profile, order.images)
    device, why_not = _device(order)
    trap_opens = order.with_device and device is None
    filter_ = bpf.program(trap_opens=trap_opens, with_devices=bool(order.device_places))
    content = {
        "furnished": True,
        "device": device.number if device else None,
        "node": nodes.stand_in() if trap_opens else None,
        "why": why_not,
        # init cannot be asked: it may be gone before the question.
        "user_namespace": os.stat("/proc/self/ns/user").st_ino,
    }
    opening = _mount_devices(order.device_places, supervisor) if order.device_places else None
    channel.send(supervisor, content, [*shown, *([device.fuse] if device else [])])
    for file in shown:
        file.close()
    if device is not None:
        # A copy of this fd that outlives `luoemu` would make the node's users wait for ever.
        device.fuse.close()
    return _run_init(order, filter_, supervisor, privileged, opening)


@dataclass(frozen=True)
class _Opening:
    """Where `trap.devices.opener` gets requests, and the directory whose files it opens."""

    requests: socket.socket
    directory: Fd


def _mount_devices(places: Sequence[str], supervisor: socket.socket) -> _Opening:
    from luod.emulator.machine import devices  # imported late: most machines have no devices

    try:
        mounts, directory = devices.mount_all(places)
    except OSError as error:
        raise OSError(error.errno, f"devices need FUSE, and a /sys to show them in ({_in_words(error)})") from None
    theirs, ours = channel.pair()
    described = [[mounted.place, mounted.number] for mounted in mounts]
    channel.send(supervisor, {"devices": described}, [theirs, *(mounted.fuse for mounted in mounts)])
    theirs.close()
    for mounted in mounts:
        mounted.fuse.close()
    return _Opening(ours, directory)


def _device(order: Order) -> tuple[nodes.DeviceNode | None, str]:
    if not order.with_device or order.trap_opens:
        return None, ""
    try:
        return nodes.mount_device(), ""
    except OSError as error:
        return None, _in_words(error)


def _run_init(
    order: Order, filter_: bytes, supervisor: socket.socket, privileged: bool, opening: _Opening | None
) -> int:
    """Forks init into the new PID namespace and waits for its end. Returns its status as os.waitpid does."""
    go, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        _init(order, filter_, supervisor, go, privileged)
    os.close(go)
    with Fd(os.pidfd_open(pid)) as init:
        channel.send(supervisor, {"init": pid}, [init])
        # From here on init may lose its own PR_SET_PDEATHSIG, by a change of its uid for example.
        namespaces.outlive_parent()
        os.write(tell, b"\n")
        os.close(tell)
        try:
            _wait(init, supervisor, opening)
        finally:
            # A status that it has already stays.
            signal.pidfd_send_signal(init.fileno(), signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _wait(init: Fd, supervisor: socket.socket, opening: _Opening | None) -> None:
    """Returns at init's end, or when `luoemu` is gone: it never sends, so its end of the channel was closed then."""
    if opening is not None:
        from luod.emulator.trap.devices import opener

        opener.serve(opening.requests, opening.directory, until=(init, supervisor))
        return
    ends = select.poll()
    for end in (init, supervisor):
        ends.register(end, select.POLLIN)
    ends.poll()


def _init(order: Order, filter_: bytes, supervisor: socket.socket, go: int, privileged: bool) -> NoReturn:
    """Becomes COMMAND. `privileged`: its root is the host's root.

    All imports are done by now: after `install` no call may be trapped before the listener is sent.
    """
    try:
        namespaces.die_with_parent()
        if not os.read(go, 1):
            os._exit(0)  # the keeper died before PR_SET_PDEATHSIG was set
        nodes.mount_proc(root=privileged)
        resource.setrlimit(resource.RLIMIT_NOFILE, order.open_files)
        capabilities.withhold()
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # the signals whose disposition Python changed
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, order.signal_mask)
        with _install(filter_) as listener:
            channel.send(supervisor, {"listener": True}, [listener])
    except OSError as error:
        channel.send(supervisor, {"error": _in_words(error)})
        os._exit(125)
    except BaseException as error:  # noqa: BLE001 - as in the keeper
        traceback.print_exc()
        channel.send(supervisor, {"error": own_fault(error)})
        os._exit(125)
    if order.init is not None:
        _close_private_fds()
        order.init(order.environment)
    try:
        if not order.command[0]:  # Python raises ValueError for it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        os.execvpe(order.command[0], list(order.command), dict(order.environment))
    except OSError as error:
        os.write(2, os.fsencode(f"luoemu: {order.command[0]}: {os.strerror(error.errno or 0)}\n"))
        os._exit(127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126)


def _install(filter_: bytes) -> Fd:
    try:
        return bpf.install(filter_)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise OSError(
            error.errno,
            "system calls are under another seccomp listener already, such as another luoemu's or a container "
            "runtime's: start this machine outside of it",
        ) from None


def _close_private_fds(*, keep: int = -1) -> None:
    """Closes fds that `luoemu` opened for itself, as exec does. Otherwise memory that it frees would stay allocated
    here.
    """
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number == keep:
            continue
        try:
            private = fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        except OSError:  # the fd of the directory itself
            continue
        if private:
            os.close(number)


def _in_words(error: OSError) -> str:
    """Returns the error's text and the file it concerns."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
