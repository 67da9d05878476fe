"""`python -m luod.daemon.updates.systemd_kexec SUPERVISOR` waits at its gate, and has systemd end this kernel.

systemctl returns when systemd has taken the request, and from then on nothing stops it. While this process lives, the
kexec is under way: so it survives the SIGTERM with which systemd ends luod's unit, until the process SUPERVISOR has
ended. If the request fails, it writes the reason and ends. `luod.daemon.updates.reboot_process` is serve's side.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from luod import kexec
from luod.daemon.processes import gate
from luod.daemon.systemd import units
from luod.daemon.updates import reboot_report
from luod.linux import Fd, has_ended
from luod.static import Final

_SECONDS: Final = 30.0
_UNANSWERED: Final = "timed out"
"""In the message of a systemctl that got no answer from systemd."""
_REFUSED: Final = ("inhibit", "is masked", "access denied", "authentication required", "kexec.target not found")
"""In messages of a systemctl whose request was certainly refused."""
_CALL: Final = "systemctl kexec"


def main(supervisor: int) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Fd(os.pidfd_open(supervisor)) as pidfd:
        order = gate.wait_for_order()
        if order is None:
            return 0
        if failure := _request(int(order) if order else None):
            reboot_report.write(0, _CALL, failure)
            return 1
        _wait_for(pidfd)
    return 0


def _wait_for(pidfd: Fd) -> None:
    """Waits until the supervisor has ended, through every failure of poll(2): the end of this process means that no
    kexec follows.
    """
    while True:
        try:
            if has_ended(pidfd, within=60.0):
                return
        except OSError:
            time.sleep(1.0)


def _request(loads: int | None) -> str:
    """Requests the kexec of the image with this count of loads; None: the count is unknown.

    Returns why that failed, "" if systemd has taken the request, or may have. systemd may still act on a request that
    it does not answer, so guests stay paused then.
    """
    if not kexec.loaded():
        # systemd would load the default entry of the boot loader.
        return "no image is loaded: another process has unloaded it"
    if loads is not None and kexec.loads_left() != loads:
        return "another process has loaded or unloaded a kernel image since"
    try:
        done = subprocess.run(
            units.kexec(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return ""
    except (FileNotFoundError, PermissionError) as error:
        return f"systemctl cannot be run: {error.strerror}"
    except OSError as error:
        return _unless_taken(f"systemctl cannot be waited for: {error.strerror}")
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    if any(_UNANSWERED in line for line in said):
        return ""
    if done.returncode > 0 and said and any(word in said[0].lower() for word in _REFUSED):
        return said[0]
    return _unless_taken(said[0] if said else f"it ended with status {done.returncode}")


def _unless_taken(failure: str) -> str:
    """Returns `failure` if systemd is certainly not about to end this kernel, else "".

    A systemctl that was killed, or whose connection broke, may have made its request before.
    """
    return "" if units.may_end_kernel() else failure


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
