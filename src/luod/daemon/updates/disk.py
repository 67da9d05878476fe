"""`python -m luod.daemon.updates.disk DIRECTORY` writes to the disk in place of serve while guests are paused.

It executes one order after the other, and answers each with an errno and its meaning. A disk that hangs blocks it in a
system call, where it can be neither killed nor waited for. So it has nothing of serve's that a guest waits for, and
serve waits for its answers, and for its end, only for a limited time. It ends with serve's end of the socket.
`luod.daemon.updates.disk_process` is that side.
"""

from __future__ import annotations

import os
import socket
import sys

from luod.daemon.store.journal_file import Journal
from luod.static import Final

ORDERS: Final = "LUOD_ORDERS"
"""The variable with the number of the socket for orders and answers."""
RECORD: Final = "LUOD_RECORD"
"""The variable with the number of the file that has the registry's log."""
SYNC: Final = b"sync"
"""Write all file systems back."""
WRITE: Final = b"write"
"""Make the log the registry's file, and wait until it is on the disk."""
_ORDER_BYTES: Final = 16
_DONE: Final = b"0\t"


def main(directory: str) -> int:
    with socket.socket(fileno=int(os.environ[ORDERS])) as orders:
        while order := orders.recv(_ORDER_BYTES):
            answer = _execute(order, directory)
            try:
                orders.send(answer)
            except BrokenPipeError:
                break
    return 0


def _execute(order: bytes, directory: str) -> bytes:
    try:
        if order == SYNC:
            os.sync()
        else:
            record = int(os.environ[RECORD])
            _write(directory, os.pread(record, os.fstat(record).st_size, 0))
    except OSError as error:
        return f"{error.errno}\t{error.strerror}".encode()
    return _DONE


def _write(directory: str, record: bytes) -> None:
    file = Journal(directory)
    file.begin(record)
    file.syncing()()
    file.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
