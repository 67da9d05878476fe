"""`tests.programs.participant` with VFIO devices: `python3 -m tests.programs.workload SOCKET ADMIN_SOCKET`.

Standard library and luod only.
"""

from __future__ import annotations

import sys

from tests.programs.devices import Devices
from tests.programs.participant import Participant


class Workload(Participant, Devices):
    """All that either can be asked."""


if __name__ == "__main__":
    Workload(*sys.argv[1:]).serve(sys.stdin, sys.stdout)
