"""The rules that this machine declares: luoemu writes its profile's name into a file. A real host has no such file.

The file decides and not the environment: a unit of systemd and a command under sudo do not have luoemu's environment.
No call is tried for this: numbers are reused between kernels, and another command would run (docs/hazards.md, H25).
Only root can make the file. Where /run is not that of the machine, as in a chroot, nothing is declared.
"""

from __future__ import annotations

from luod.static import Final

_FILE: Final = "/run/luoemu/profile"
_LONGEST: Final = 64


def profile() -> str | None:
    """Returns the profile of an emulated machine, such as "mainline"; None on a real host."""
    try:
        with open(_FILE, "rb") as file:
            return file.read(_LONGEST).decode("ascii", "replace").strip()
    except OSError:
        return None
