"""Writes the `.varlink` files beside this module from the types: `python3 -m luod.ipc.interfaces.idl`.

A test compares them. It is not used at run time: luod answers introspection from the types themselves.
"""

from __future__ import annotations

from pathlib import Path

from luod.ipc.interfaces.admin import Admin
from luod.ipc.interfaces.sessions import Sessions
from luod.ipc.interfaces.updates import Updates


def files() -> dict[str, str]:
    """Returns the contents of each file, by file name."""
    interfaces = (Sessions, Updates, Admin)
    return {f"{interface.name}.varlink": interface.render_interface_description() for interface in interfaces}


def main() -> None:
    for name, text in files().items():
        (Path(__file__).parent / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
