"""`python -m luod.daemon.processes.hook_start COMMAND…` becomes the operator's hook COMMAND, once
`luod.daemon.updates.hooks` lets it.
"""

from __future__ import annotations

import sys

from luod.daemon.processes import gate


def main() -> int:
    if not gate.wait():
        return 1
    return gate.become(sys.argv[1:], sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
