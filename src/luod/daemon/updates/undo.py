"""Undoes what an update has done to the machine: it unloads the image, and starts the units that were stopped.

An image that stays loaded makes the next `systemctl reboot` a kexec that luod does not run (docs/hazards.md, H13). What
is to be undone is written to a file of the state directory before it is done, so that a luod that is started again
finds it. The file counts in the same boot only. `luod.decode` reads the annotations.
"""

import asyncio
import contextlib
import json
import os

from luod import kexec
from luod.daemon.store import state_file
from luod.daemon.systemd import units
from luod.decode import Decoder, Misfit, encode
from luod.errors import KernelRefused
from luod.frozen import frozen, replace
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luod.daemon.log import Log

_FILE: "Final" = "update-undo"
_DECODER: "Final" = Decoder(strict=True)


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
    """Needs a running loop."""

    def __init__(self, directory: str, boot_id: str, log: "Log") -> None:
        """`directory` is the state directory. Reads the file."""
        self._path = os.path.join(directory, _FILE)
        self._boot_id = boot_id
        self._log = log
        self._done = self._read()
        self._lock = asyncio.Lock()

    @property
    def needed(self) -> bool:
        return self._done is not None

    def loads(self) -> None:
        """Records that an image is about to be loaded. Raises OSError: it cannot be recorded."""
        self._write(replace(self._done or Done(self._boot_id), image=True, loads=None))

    def loaded(self, count: int | None) -> None:
        """Records the kernel's count of loads after that. Raises OSError."""
        if self._done is not None and count is not None:
            self._write(replace(self._done, loads=count))

    def stops(self, names: "Sequence[str]") -> None:
        """Records that some of these active units are about to be stopped. Raises OSError."""
        self._write(replace(self._done or Done(self._boot_id), units=tuple(names)))

    async def undo(self) -> None:
        """Undoes it. A second call waits for the first, and then finds nothing to undo."""
        async with self._lock:
            done = self._done
            if done is None:
                return
            if done.image:
                await asyncio.to_thread(self._unload, done.loads)
            if done.units:
                failure = await asyncio.to_thread(units.start, done.units)
                self._log("units-started", units=len(done.units), failure=failure)
            self._done = None
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def _unload(self, count: int | None) -> None:
        """Unloads the image, unless it is known to be of another process. For a thread."""
        try:
            if not kexec.loaded():
                return
            if count is not None and kexec.loads_left() != count:
                self._log.warning("image-left", reason="another process has loaded an image since")
                return
            kexec.unload()
        except (KernelRefused, OSError) as error:
            self._log.warning(
                "image-left", reason=str(error), meaning="the next `systemctl reboot` starts it and loses sessions"
            )
            return
        self._log("unloaded")

    def _write(self, done: Done) -> None:
        state_file.replace(self._path, json.dumps(encode(done)).encode())
        self._done = done

    def _read(self) -> Done | None:
        try:
            with open(self._path, "rb") as file:
                done = _DECODER(Done, json.load(file))
        except (OSError, ValueError, Misfit):
            return None
        return done if done.boot_id == self._boot_id else None
