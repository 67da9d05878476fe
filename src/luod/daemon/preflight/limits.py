"""Checks whether the running kernel still loads an image as often as an update needs. Pure: facts in, findings out."""

from __future__ import annotations

from luod.daemon.preflight.findings import finding
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from luod.ipc.types.admin import Finding
    from luod.kexec import LoadLimits

_REMEDY: Final = "remove it from /etc/sysctl.conf and /etc/sysctl.d and reboot; it cannot be undone in a running kernel"


def judge(limits: LoadLimits, *, loads: int) -> Iterator[Finding]:
    """Yields the obstacles to loading an image `loads` times, and once more if the kernel does not count loads."""
    if limits.disabled and (loads or limits.loads_left is None):
        yield finding(
            "kexec-disabled",
            "kernel.kexec_load_disabled is 1",
            "this kernel loads no image (EPERM), and luod loads the image again when the update begins",
            _REMEDY,
        )
    if limits.loads_left is not None and limits.loads_left < loads:
        yield finding(
            "kexec-load-limit",
            f"kernel.kexec_load_limit_reboot is {limits.loads_left}, and an update needs {loads}",
            "every load counts, also a failed one; at 0 the kernel refuses to load (EPERM)",
            _REMEDY,
        )


def counting(limits: LoadLimits) -> Iterator[Finding]:
    if not limits.counted:
        yield finding(
            "loads-not-counted",
            "kernel.kexec_load_limit_reboot cannot be set",
            "luod cannot tell whether another program loads an image: it loads its own again while guests are paused",
            "let luod write to /proc/sys, and run a kernel with CONFIG_SYSCTL",
        )
