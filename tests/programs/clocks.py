"""Prints what the clocks of a machine say, as one JSON object: its TSC in ticks, the kernel's clocks in nanoseconds.

`python3 -m tests.programs.clocks`, inside a machine of x86_64; standard library only.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import time
from typing import Final

# rdtsc; shl rdx, 32; or rax, rdx; ret
_READ_TSC: Final = bytes.fromhex("0f31 48c1e220 4809d0 c3")


def main() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(_READ_TSC)
        place = ctypes.c_char.from_buffer(code)
        tsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))
        readings = {"realtime": time.time_ns(), "monotonic": time.monotonic_ns(), "tsc": tsc()}
        del place
    print(json.dumps(readings))


if __name__ == "__main__":
    main()
