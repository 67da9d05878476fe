"""The types of `io.luod.Updates`."""

from luod.frozen import frozen
from luod.ipc.types.phases import EventKind, State
from luod.static import Literal

When = Literal["preserved", "preparing", "freezing"]


@frozen
class FrozenDevice:
    """A VFIO device file that the participant declared: its session, token and name."""

    session: str
    token: int
    name: str | None


@frozen
class Event:
    """One reply of Follow. Members that do not apply to this kind of event are null."""

    event: EventKind
    state: State
    participant: str | None = None
    update: str | None = None
    generation: int | None = None
    deadline: float | None = None
    reason: str | None = None
    frozen_devices: list[FrozenDevice] | None = None


@frozen
class DeclaredFile:
    """A file that a session holds, or will hold. Sizes are bytes, as fstat returns them (allocated: st_blocks * 512).

    device: the PCI address of a VFIO device, such as 0000:01:00.0.
    """

    token: int
    name: str | None
    kind: str
    size: int
    allocated: int
    seals: int
    when: When
    device: str | None = None


@frozen
class DeclaredSession:
    """An outgoing session and all its files except the manifest."""

    name: str
    files: list[DeclaredFile]
