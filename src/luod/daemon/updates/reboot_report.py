"""The report of a process that was to start the next kernel, by which serve knows why there was no kexec.

One line: the errno, the call and its meaning, separated by tabs. It imports little: guests are paused when that process
starts.
"""

from __future__ import annotations

from luod.errors import KernelRefused


def write(errno: int, call: str, meaning: str) -> None:
    """Writes the report to standard output."""
    print(errno, call, meaning, sep="\t", flush=True)


def read(report: str) -> KernelRefused | None:
    """Returns the error that the process reported; None if it reported nothing that has this form."""
    number, _, rest = report.partition("\t")
    call, tab, meaning = rest.partition("\t")
    return KernelRefused(int(number), call, meaning) if tab and number.isdecimal() else None
