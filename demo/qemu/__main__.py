"""`make demo-qemu`: shows, with times, a Linux guest of QEMU that counts on its serial console through a kernel update.

The machine is emulated (`luoemu`), QEMU is the machine's own, and runs without KVM. `--svg FILE` draws the timeline.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from demo.qemu.console import Console
from demo.qemu.linux_guest import LinuxGuest
from demo.qemu.scenario import Story, shown
from luod.errors import LuodError
from luod.testing import EmulatedMachine, Host
from luod.testing.kernel.qemu import program

GUEST = LinuxGuest(mebibytes=32, memory=192, interval=0.1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.qemu", description=__doc__)
    parser.add_argument("--svg", metavar="FILE", type=Path, help="draw the timeline of the update into FILE")
    given = parser.parse_args()
    print(f"A live update on an emulated machine: a Linux guest of QEMU with {GUEST.memory} MiB, one kexec.")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="luod-demo-") as name,
            Console(Path(name, "console"), lambda line: print(shown(line), flush=True)) as console,
            EmulatedMachine() as machine,
        ):
            host = Host(machine, state_directory=name)
            host.forked = False  # its timeline shows luod's start
            story = Story(host, GUEST, console, Path(name), program(), print)
            story.start()
            outcome = story.update()
            checks = story.until_checked_again()
            story.say(
                f"every byte of its {GUEST.mebibytes} MiB has the checksum of before the update ({checks} checks)"
            )
            print(story.drawn(given.svg))
    except LuodError as error:
        print(f"the demo failed: {error}\n  {error.hint}", file=sys.stderr)
        return 1
    print(f"Done: the guest printed {outcome.before} before the update and {outcome.before + 1} after it.")
    print(f"It printed nothing for {outcome.gap:.2f} s, in which the kernel and QEMU were replaced.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
