"""Runs `luoemu` as `python3 -m luod.emulator.machine`."""

from __future__ import annotations

import sys

from luod.emulator.machine.main import main

if __name__ == "__main__":
    sys.exit(main())
