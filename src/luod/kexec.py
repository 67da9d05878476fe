"""The next kernel: loads it, reports whether one is loaded, and starts it.

The module has three system calls and the meaning of their errnos. `luod.image` reads the contents of an image.
`luod.daemon` decides whether to kexec. Programs on a machine without luod can use this too. `load`, `unload` and `jump`
need CAP_SYS_BOOT.
"""

from __future__ import annotations

import contextlib
import errno
import os

from luod import linux, pci
from luod.errors import (
    BadInput,
    ImageDoesNotFit,
    JumpRefused,
    KernelRefused,
    NoImageLoaded,
    NotAKernelImage,
    VfioDeviceNotQuiet,
)
from luod.frozen import frozen
from luod.static import TYPE_CHECKING, Final, NoReturn
from luod.uapi import kexec as uapi

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luod.linux import HasFileno

    _Path = str | os.PathLike[str]
    _Meanings = Mapping[int, tuple[type[KernelRefused], str]]

_LOADED: Final = "/sys/kernel/kexec_loaded"
_ROOT: Final = "/"
_SYSCTLS: Final = "proc/sys/kernel"
_MOST_LOADS: Final = 2**31 - 1

_REBOOT: Final = "reboot(LINUX_REBOOT_CMD_KEXEC)"
_COUNT: Final = f"kernel.{uapi.SYSCTL_LOAD_LIMIT_REBOOT}"
"""In place of a call in the error of a `jump` that calls nothing."""
_PRIVILEGE: Final = "the process lacks CAP_SYS_BOOT, or the kernel is locked down"
_LOAD: Final[_Meanings] = {
    errno.ENOEXEC: (NotAKernelImage, "the file is not a kernel image for this machine"),
    errno.EADDRNOTAVAIL: (ImageDoesNotFit, "image and initrd do not fit the memory that kexec handover leaves them"),
    errno.ENOMEM: (ImageDoesNotFit, "there is not enough memory for image and initrd"),
    errno.EFBIG: (ImageDoesNotFit, "image or initrd is too large"),
    errno.EPERM: (KernelRefused, _PRIVILEGE),
    errno.EACCES: (KernelRefused, "a security module (SELinux, IMA) does not allow this image"),
    errno.EBUSY: (KernelRefused, "another kexec operation is running"),
    errno.EBADF: (KernelRefused, "an fd of image or initrd is not open for reading"),
    errno.ETXTBSY: (KernelRefused, "image or initrd is open for writing somewhere"),
    errno.EINVAL: (
        KernelRefused,
        "image or initrd is not a regular file, or is empty, or the command line is too long",
    ),
    errno.EKEYREJECTED: (KernelRefused, "the image's signature is not accepted"),
    errno.ENOKEY: (KernelRefused, "the image is signed with a key this kernel does not know"),
    errno.EBADMSG: (KernelRefused, "the image's signature is damaged"),
    errno.ENODATA: (KernelRefused, "the image is not signed, and this kernel asks for that"),
    errno.ENOSYS: (KernelRefused, "this kernel was built without kexec_file_load"),
}
_JUMP: Final[_Meanings] = {
    errno.EINVAL: (NoImageLoaded, "no image is loaded, or this is not the initial PID namespace"),
    errno.EBUSY: (JumpRefused, "another kexec operation is running, or a preserved file could not be frozen"),
    errno.EPERM: (JumpRefused, _PRIVILEGE),
}


@frozen
class LoadLimits:
    """The limits of this kernel on loading images. Only a reboot lifts them."""

    disabled: bool = False
    """kernel.kexec_load_disabled"""
    loads_left: int | None = None
    """kernel.kexec_load_limit_reboot: number of calls that this kernel still allows, failed ones included; None: no
    limit.
    """
    lockdown: str = "none"
    """`integrity` and `confidentiality` allow signed images only."""
    counted: bool = True
    """Whether `count_loads` can count loads."""


_NOT_QUIET: Final = (
    "an image is loaded, so a preserved VFIO device has its interrupts on or is not in D0 (or this is not the initial "
    "PID namespace); devices before it were frozen: reset, or dead until their driver is bound again"
)


def encode_command_line(command_line: str) -> bytes:
    """Returns the command line as kexec_file_load takes it, with its NUL. Raises BadInput: no kernel accepts it."""
    try:
        encoded = command_line.encode() + b"\0"
    except UnicodeEncodeError as error:
        raise BadInput(f"the command line is not UTF-8: {command_line!r:.100}") from error
    if 0 in encoded[:-1]:
        raise BadInput("a kernel command line has no NUL")
    if len(encoded) > uapi.COMMAND_LINE_SIZE:
        raise BadInput(f"a kernel command line has up to {uapi.COMMAND_LINE_SIZE - 1} bytes, not {len(encoded) - 1}")
    return encoded


def load(kernel: int | HasFileno, initrd: int | HasFileno | None, command_line: str) -> None:
    """Loads a kernel as the next one, in place of any loaded before: kexec_file_load(2).

    The caller owns the fds. They must be open for reading, and no process may have the files open for writing.
    `kexec_load(2)`, the older call, is not offered: sessions do not survive it, and /sys does not show which of the two
    was used (docs/hazards.md, H19). Put `liveupdate=on kho=on` on the command line; without it the next kernel does not
    take sessions over. Image and initrd must fit kexec handover's scratch memory (H21): an initrd of 256 MiB did not
    fit 272 MiB. A next kernel that reads other formats loses everything, or panics (H20): `luod.image` reports its
    formats.

    Raises BadInput: the command line has a NUL, is not UTF-8, or is longer than any kernel accepts; an image may refuse
    a shorter one with EINVAL. Raises NotAKernelImage: ENOEXEC. Raises ImageDoesNotFit: EADDRNOTAVAIL, ENOMEM, EFBIG.
    Raises KernelRefused: any other errno. After any error the previous image is still loaded.
    """
    encoded = encode_command_line(command_line)
    flags = uapi.KEXEC_FILE_NO_INITRAMFS if initrd is None else 0
    try:
        linux.syscall(
            "kexec_file_load", _fd(kernel), -1 if initrd is None else _fd(initrd), len(encoded), encoded, flags
        )
    except OSError as error:
        if error.errno == errno.EPERM:
            raise not_permitted(load_limits()) from None
        _refuse("kexec_file_load", error, _LOAD, KernelRefused)


def load_limits(root: _Path = _ROOT) -> LoadLimits:
    """Returns this kernel's limits.

    Those that the kernel does not show count as permissive. `root` has /proc and /sys.
    """
    left = loads_left(root)
    lockdown = _text(os.path.join(root, "sys/kernel/security/lockdown"))
    return LoadLimits(
        disabled=_text(os.path.join(root, _SYSCTLS, uapi.SYSCTL_LOAD_DISABLED)) == "1",
        loads_left=left,
        lockdown=lockdown.partition("[")[2].partition("]")[0] or "none",
        counted=left is not None or os.access(_load_limit(root), os.W_OK),
    )


def loads_left(root: _Path = _ROOT) -> int | None:
    """Returns how many loads this kernel still allows (kernel.kexec_load_limit_reboot); None: no limit.

    The kernel subtracts 1 for every `load` and `unload` of a process with CAP_SYS_BOOT, also a failed one, by either of
    the two system calls, and no value is ever higher than an earlier one. So two equal values, unless they are None,
    show that the loaded image is the same.
    """
    left = _text(_load_limit(root))
    return int(left) if left.isdecimal() else None


def count_loads(root: _Path = _ROOT) -> int | None:
    """Has the kernel count loads, by the highest limit if it has no other. Returns `loads_left`; None if it cannot
    count: it was built without sysctls, or /proc/sys is read-only.
    """
    left = loads_left(root)
    if left is None:
        with contextlib.suppress(OSError):
            with open(_load_limit(root), "w", encoding="ascii") as file:
                file.write(str(_MOST_LOADS))
            left = loads_left(root)
    return left


def _load_limit(root: _Path) -> str:
    return os.path.join(root, _SYSCTLS, uapi.SYSCTL_LOAD_LIMIT_REBOOT)


def _text(path: str) -> str:
    """Returns the content of a small file; "" if it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def not_permitted(limits: LoadLimits) -> KernelRefused:
    """Returns the error of a load that failed with EPERM."""
    sysctl = "remove it from /etc/sysctl.conf and /etc/sysctl.d and reboot; a running kernel does not take it back"
    if limits.disabled:
        meaning, hint = "kernel.kexec_load_disabled is 1: this kernel loads no image", sysctl
    elif limits.loads_left == 0:
        meaning = "kernel.kexec_load_limit_reboot is 0: this kernel has used up the loads it allows"
        hint = sysctl
    elif limits.lockdown != "none":
        meaning = f"the kernel is locked down ({limits.lockdown}) and loads signed images only"
        hint = "load an image that is signed with a key this kernel trusts, or boot without lockdown="
    else:
        meaning, hint = "the process lacks CAP_SYS_BOOT in the initial user namespace", "run luod as root of the host"
    return KernelRefused(errno.EPERM, "kexec_file_load", meaning, hint=hint)


def unload() -> None:
    """Unloads the image, if one is loaded. Raises KernelRefused: EPERM, EBUSY, ENOSYS."""
    try:
        linux.syscall("kexec_file_load", -1, -1, 0, None, uapi.KEXEC_FILE_UNLOAD)
    except OSError as error:
        _refuse("kexec_file_load", error, _LOAD, KernelRefused)


def loaded(path: _Path = _LOADED) -> bool:
    """Returns whether an image is loaded, by either call (docs/hazards.md, H19). False on a kernel without kexec.

    Raises OSError: it cannot be read.
    """
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() == "1"
    except FileNotFoundError:
        return False


def jump(*, loads: int | None = None, sync: bool = True) -> NoReturn:
    """Writes all file systems back and starts the loaded image: sync(2), reboot(LINUX_REBOOT_CMD_KEXEC).

    Without `sync` the caller has called sync(2). It does not end while a disk hangs, and its process cannot be killed
    then, so a caller with paused guests makes it in another process, and limits its wait.

    `loads` is what `loads_left` returned for this image: nothing is started if another process has loaded one since,
    also during the sync, which can take seconds.

    No process is notified or ended: every process stops where it is, so the caller must prepare them. What to know
    before:

    * Sessions are carried if an fd of them is open anywhere at this moment; `/dev/liveupdate` need not be.
    * reboot(2) does not sync: a file not written back was empty or absent afterwards (docs/hazards.md, H16). Other
      processes must fsync what they write after the sync here.
    * A process inside a session's ioctl blocks the kexec, unkillable, until that ioctl is done (H17).
    * It is refused outside the initial PID namespace (H18): EINVAL, as without an image.
    * Under systemd use `systemctl kexec`, so that units are stopped. There, a reboot(2) that fails becomes a cold
      reboot and everything is lost (H15).
    * An image loaded with kexec_load(2) starts, and nothing is carried (H19). Load it with `load`.

    Raises NoImageLoaded: EINVAL. Raises VfioDeviceNotQuiet: EINVAL too, if an image is loaded and VFIO has devices.
    Raises JumpRefused: any other errno, such as of a device whose reset fails. It raises when reboot(2) returns. The
    machine continues as before then, except for devices that were already frozen (H22).
    """
    if sync:
        os.sync()
    if loads is not None and loads_left() != loads:
        raise JumpRefused(0, _COUNT, "another process has loaded or unloaded a kernel image since")
    try:
        linux.syscall("reboot", uapi.LINUX_REBOOT_MAGIC1, uapi.LINUX_REBOOT_MAGIC2, uapi.LINUX_REBOOT_CMD_KEXEC, None)
    except OSError as error:
        meanings = _JUMP
        if error.errno == errno.EINVAL and pci.any_vfio_device() and loaded():
            meanings = {errno.EINVAL: (VfioDeviceNotQuiet, _NOT_QUIET)}
        _refuse(_REBOOT, error, meanings, JumpRefused)
    raise JumpRefused(0, _REBOOT, "it returned without an error and without a jump")


def _fd(file: int | HasFileno) -> int:
    return file if isinstance(file, int) else file.fileno()


def _refuse(call: str, error: OSError, meanings: _Meanings, otherwise: type[KernelRefused]) -> NoReturn:
    code = error.errno or 0
    kind, meaning = meanings.get(code, (otherwise, ""))
    raise kind(code, call, meaning) from None
