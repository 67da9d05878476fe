"""Reads the devices of a machine from a file: TOML, a table for each device, named by its address.

    ["0000:01:00.0"]
    vendor = 0x8086
    bars = ["16K", "1M"]
    display = true

The options are those of `luoemu run --vfio`.
"""

from __future__ import annotations

import tomllib

from luod.emulator.model.vfio.hardware.description import DeviceDescription, describe


def read(path: str) -> list[DeviceDescription]:
    """Returns the devices in the file. Raises ValueError, which names the file, the device and the member."""
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
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
