"""The devices of a machine over all its boots: the hardware, and the features of each kernel for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from luod.emulator.model.session import SessionRecord
from luod.emulator.model.vfio.hardware.board import Board
from luod.emulator.model.vfio.hardware.description import DeviceDescription
from luod.emulator.model.vfio.liveupdate import DEVICE_FORMAT
from luod.emulator.model.vfio.ports import DeviceHost
from luod.emulator.model.vfio.rules import V2, Rules
from luod.emulator.model.vfio.vfio import Features, Vfio


class Bus:
    """Exists once for all boots; `boot` gives each kernel its own view. Owns the hardware until `close`."""

    def __init__(
        self,
        host: DeviceHost,
        devices: Sequence[DeviceDescription],
        *,
        rules: Rules = V2,
        iommufd_preservation: bool = False,
        without_handler: frozenset[int] = frozenset(),
    ) -> None:
        """Raises ValueError for devices that cannot be in one machine.

        `without_handler`: boots, counted from 1, with a kernel that cannot preserve or take over VFIO devices
        (docs/hazards.md, H20).
        """
        self.can_map = True
        """Whether programs can map BARs here; to be set before the first boot."""
        self._host = host
        self._rules = rules
        self._iommufd_preservation = iommufd_preservation
        self._without_handler = without_handler
        self._board = Board(host, devices)
        self.places = self._board.places

    def boot(
        self, number: int, command_line: str, sessions: Iterable[SessionRecord], speaks: Callable[[str], bool]
    ) -> Vfio:
        """Returns boot `number`'s view of the hardware.

        The caller keeps `sessions`: the records in them decide the initial state of devices. `speaks` returns whether
        the kernel has a handler of a format.
        """
        carries = number not in self._without_handler and speaks(DEVICE_FORMAT)
        features = Features(self._rules, self.can_map, carries, self._iommufd_preservation)
        return Vfio(self._host, self._board, features, command_line, sessions if carries else ())

    def close(self) -> None:
        """Switches the machine off."""
        self._board.close()
