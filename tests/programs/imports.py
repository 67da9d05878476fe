"""luod, whose processes write the names of their modules to FILE at SIGUSR1, and which imports nothing later by itself.

`python3 -m tests.programs.imports FILE OPTION…`
"""

from __future__ import annotations

import os
import signal
import sys

from luod.daemon import main


def write(file: str) -> None:
    with open(file + ".new", "w", encoding="ascii") as new:
        new.write("\n".join(sorted(sys.modules)))
    os.rename(file + ".new", file)


if __name__ == "__main__":
    main.import_asyncio()
    from luod.daemon import later

    later.PAUSE_SECONDS = 3600.0  # type: ignore[misc]  # Final for everyone but this program
    signal.signal(signal.SIGUSR1, lambda *_: write(sys.argv[1]))
    sys.exit(main.main(sys.argv[2:]))
