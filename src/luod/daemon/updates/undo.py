"""Undoes what an update has done to the machine: it unloads the image, and starts the units that were stopped.

An image that stays loaded makes the next `systemctl reboot` a kexec that luod does not run (docs/hazards.md, H13). What
is to be undone is written to a file of the state directory before it is done, so that a luod that is started again
finds it. It stays there until it is undone: what fails is tried again, and `luoctl status` shows it. The file counts in
the same boot only. `luod.decode` reads the annotations.
"""

import asyncio
import contextlib
import json

from luod import kexec
from luod.daemon.store.state_file import StateFile
from luod.daemon.systemd import units
from luod.decode import Decoder, Misfit, encode
from luod.errors import KernelRefused
from luod.frozen import frozen, replace
from luod.ipc.types.admin import Problem
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luod.daemon.log import Log
    from luod.daemon.store.write_hold import WriteHold

_FILE: "Final" = "update-undo"
_DECODER: "Final" = Decoder(strict=True)
_AGAIN_SECONDS: "Final" = 10.0
_AGAIN_LAST: "Final" = 300.0
_REBOOT: "Final" = "until then the next `systemctl reboot` starts it and loses sessions"


def _remedy(names: str) -> str:
    return f"see `systemctl status {names}`; `systemctl reset-failed {names}` if it need not run"


@frozen
class Done:
    """The traces of an update in this boot. `image`: it loads one. `loads`: the kernel's count after its load, None if
    that is unknown. `units` were active before it stopped units.
    """

    boot_id: str
    image: bool = False
    loads: int | None = None
    units: tuple[str, ...] = ()


class Undo:
    """Needs a running loop. `close` at the end of serve."""

    def __init__(self, directory: str, boot_id: str, log: "Log", idle: "Callable[[], bool]", hold: "WriteHold") -> None:
        """`directory` is the state directory. `idle`: whether no update runs. `hold`: whether it may be written to now.
        Reads the file.
        """
        self._file = StateFile(directory, _FILE, hold)
        self._hold = hold
        self._boot_id = boot_id
        self._log = log
        self._idle = idle
        self._done = self._read()
        self._lock = asyncio.Lock()
        self._pause = _AGAIN_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._image = ""
        """Why the image is still loaded, "" if it is not, or nothing was tried."""
        self._units: dict[str, str] = {}
        """Why each unit does not run yet."""
        self._starting: frozenset[str] = frozenset()
        """The units that systemd has yet to start."""

    @property
    def needed(self) -> bool:
        return self._done is not None

    @property
    def left(self) -> tuple[Problem, ...]:
        """Returns what was tried without success."""
        found = [Problem(name, why, _remedy(name)) for name, why in self._units.items()]
        if self._image:
            remedy = f"run `kexec --unload`; {_REBOOT}"
            found.insert(0, Problem("", f"the image is still loaded: {self._image}", remedy))
        return tuple(found)

    def loads(self) -> None:
        """Records that an image is about to be loaded. Raises OSError: it cannot be recorded."""
        self._write(replace(self._done or Done(self._boot_id), image=True, loads=None))

    def loaded(self, count: int | None) -> None:
        """Records the kernel's count of loads after that. Raises OSError."""
        if self._done is not None and count is not None:
            self._write(replace(self._done, loads=count))

    def stops(self, names: "Sequence[str]") -> None:
        """Records that some of these active units are about to be stopped. Raises OSError."""
        done = self._done or Done(self._boot_id)
        self._write(replace(done, units=tuple(dict.fromkeys((*done.units, *names)))))

    async def undo(self) -> None:
        """Undoes it, as far as that is possible now. A second call waits for the first. What is left is tried again
        while no update runs.
        """
        async with self._lock:
            done = self._done
            if done is None:
                return
            image, stopped = "", dict[str, str]()
            if done.image:
                image = await asyncio.to_thread(self._unload, done.loads)
            if done.units:
                stopped = await asyncio.to_thread(units.start, done.units, started=self._starting)
                self._starting = frozenset(name for name, why in stopped.items() if why == units.STARTING)
                self._log("units-started", units=len(done.units) - len(stopped))
            self._tell(image, {name: why for name, why in stopped.items() if why != units.STARTING})
            if not image and not stopped:
                self._done = None
                self._save()
                return
            self._done = replace(done, image=bool(image), units=tuple(stopped))
            with contextlib.suppress(OSError):  # the file has more
                self._write(self._done)
            self._try_later()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _tell(self, image: str, stopped: "dict[str, str]") -> None:
        """Takes what is left, and logs it if that is another than before."""
        before = self.left
        self._image, self._units = image, stopped
        if self.left == before:
            self._pause = min(self._pause * 2, _AGAIN_LAST)
            return
        self._pause = _AGAIN_SECONDS
        if not self.left:
            self._log("undone")
            return
        if image:
            self._log.warning("image-left", reason=image, hint=f"run `kexec --unload`; {_REBOOT}")
        if stopped:
            self._log.warning(
                "units-left",
                units=" ".join(stopped),
                reason="; ".join(f"{name}: {why}" for name, why in stopped.items()),
                hint=f"luod tries again; {_remedy(' '.join(stopped))}",
            )

    def _try_later(self) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(self._pause, self._try_now)

    def _try_now(self) -> None:
        if self._idle():
            self._task = asyncio.ensure_future(self.undo())
        else:
            self._try_later()

    def _unload(self, count: int | None) -> str:
        """Unloads the image, unless another process has loaded one since. Returns why it is still loaded. Blocks: for a
        thread.
        """
        try:
            if not kexec.loaded():
                return ""
            if count is not None and kexec.loads_left() != count:
                self._log.warning("image-left", reason="another process has loaded an image since")
                return ""
            kexec.unload()
        except (KernelRefused, OSError) as error:
            return str(error)
        self._log("unloaded")
        return ""

    def _write(self, done: Done) -> None:
        """Writes the file. Raises OSError."""
        self._file.replace(json.dumps(encode(done)).encode(), self._save)
        self._done = done

    def _save(self) -> None:
        """Makes the file what is to be undone, as far as its disk allows that."""
        with contextlib.suppress(OSError):
            if self._done is not None:
                self._write(self._done)
            elif self._hold.holds:
                # The file on the disk, which has more, stays until the end of the hold.
                self._file.replace(json.dumps(encode(Done(self._boot_id))).encode(), self._save)
            else:
                self._file.remove()

    def _read(self) -> Done | None:
        """Returns what the newest file of this boot has; None without one."""
        for path in self._file.paths:
            with contextlib.suppress(OSError, ValueError, Misfit), open(path, "rb") as file:
                done: Done = _DECODER(Done, json.load(file))
                if done.boot_id == self._boot_id:
                    return done if done.image or done.units else None
        return None
