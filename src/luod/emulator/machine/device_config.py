"""Reads the devices of a machine from a file: TOML, a table for each device, named by its address.

    ["0000:01:00.0"]
    vendor = 0x8086
    bars = ["16K", "1M"]
    display = true

The options are those of `luoemu run --vfio`.
"""

from __future__ import annotations

import os
import stat
import tomllib
from typing import Final

from luod.emulator.model.vfio.hardware.description import DeviceDescription, describe
from luod.linux import Fd

_BYTES_MAXIMUM: Final = 1 << 20


def read(path: str) -> list[DeviceDescription]:
    """Returns the devices in the file. Raises ValueError, which names the file, the device and the member."""
    try:
        content = tomllib.loads(_text(path))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    descriptions = []
    for address, options in content.items():
        if not isinstance(options, dict):
            raise ValueError(f'{path}: {address} must be a table, ["0000:01:00.0"], with the device\'s options')
        try:
            descriptions.append(describe(address, options))
        except ValueError as error:
            raise ValueError(f"{path}: {address}: {error}") from None
    return descriptions


def _text(path: str) -> str:
    """Returns the contents of a regular file.

    Raises ValueError for another file and for one that is too large, UnicodeDecodeError, OSError.
    """
    with Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)) as file:  # a pipe has perhaps no writer
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path}: not a regular file; give a TOML file")
        with open(file.fileno(), "rb", closefd=False) as content:
            found = content.read(_BYTES_MAXIMUM + 1)
    if len(found) > _BYTES_MAXIMUM:
        raise ValueError(f"{path}: larger than {_BYTES_MAXIMUM >> 20} MiB; give a file with a table for each device")
    return found.decode()
