"""The settings of an emulated host, which it finds as JSON in its directory. `luod.decode` reads the annotations."""

import json
import os
from typing import Final

from luod.decode import Decoder, encode
from luod.fleet.faults import Fault
from luod.frozen import frozen

_NAME: Final = "host.json"


@frozen
class Image:
    """The next kernel of every host: its paths as the playbook names them, its release and build id (hexadecimal)."""

    kernel: str
    initrds: tuple[str, ...] = ()
    release: str = "7.3.5-rehearsal"
    build_id: str = "5a" * 20


@frozen
class Setting:
    """A host. `guests` are the names of its VMMs, each with so many bytes of memory."""

    name: str
    directory: str
    programs: str
    """The directory with the programs of its PATH, such as luoctl."""
    image: Image
    guests: tuple[str, ...]
    guest_bytes: int
    fault: Fault | None = None


def write(setting: Setting) -> str:
    """Writes the settings into the host's directory, and returns the path. Raises OSError."""
    path = os.path.join(setting.directory, _NAME)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(setting, file, default=encode)
    return path


def read(path: str) -> Setting:
    """Raises OSError, ValueError and Misfit: the file is not one of `write`."""
    with open(path, encoding="utf-8") as file:
        found: Setting = Decoder(strict=True)(Setting, json.load(file))
    return found
