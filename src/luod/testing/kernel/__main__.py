"""`python -m luod.testing.kernel -- COMMAND…`: runs COMMAND on a real kernel with LUO, in a virtual machine.

`luoemu run` does the same on an emulated one: COMMAND runs in every boot until it ends without a kexec, and its status
is this command's. Its environment has LUOD_BOOT (1, 2, …), and LUOD_KERNEL and LUOD_INITRD, to load for the kexec.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from luod.errors import LuodError, MachineJumped
from luod.testing.kernel.machine import KernelMachine
from luod.testing.machine import Machine
from luod.testing.scratch import Scratch


def run_by_hand(machine: Machine, argv: Sequence[str], output: Path, *, timeout: float) -> int:
    """Runs `argv` in `machine`, in every boot until it ends without a kexec. Returns its exit status.

    Its output goes to files in `output`, a directory to which the machine may write, since a kexec would cut a pipe
    short. It is printed after its end or the kexec. A shell in the machine makes the files, and then enters this
    process's directory: if it cannot, it says so, and its status is returned.
    """
    while True:
        files = output / f"boot-{machine.boot}"
        redirected = f"{shlex.quote(f'{files}.out')} 2>{shlex.quote(f'{files}.err')}"
        environment = {"LUOD_BOOT": str(machine.boot), "LUOD_KERNEL": machine.kernel, "LUOD_INITRD": machine.initrd}
        program = machine.spawn(
            ["sh", "-c", f'exec >{redirected} && cd "$0" && exec "$@"', os.getcwd(), *argv], env=environment
        )
        try:
            return program.wait(timeout=timeout)
        except MachineJumped:
            continue
        finally:
            sys.stdout.write(_written(files.with_suffix(".out")))
            sys.stderr.write(_written(files.with_suffix(".err")) + program.stderr)


def _written(path: Path) -> str:
    """Returns what is in a file, "" if the machine or the shell ended before it was made."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m luod.testing.kernel",
        description="Runs COMMAND on a real kernel with LUO, in a virtual machine.",
    )
    parser.add_argument("--kernel", metavar="FILE", help="the image to boot (default: what `make kernel` built)")
    parser.add_argument("--append", metavar="WORDS", default="", help="added to the kernel's command line")
    parser.add_argument("--memory", metavar="SIZE", default="1G", help="the machine's memory (default: %(default)s)")
    parser.add_argument("--writable", metavar="DIR", action="append", default=[], help="DIR may be written; repeatable")
    parser.add_argument("--log", metavar="FILE", help="keep the serial log here")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=3600, help="default: %(default)s")
    parser.add_argument("command", metavar="COMMAND", nargs="+")
    arguments = parser.parse_args()
    scratch = Scratch("luod-kernel-")
    output = scratch.path / "output"
    output.mkdir()
    try:
        with KernelMachine(
            kernel=arguments.kernel,
            folder=scratch.path,
            writable=[output, *arguments.writable],
            command_line=arguments.append,
            memory=arguments.memory,
        ) as machine:
            status = run_by_hand(machine, arguments.command, output, timeout=arguments.timeout)
    except LuodError as error:
        print(f"{error}\n{error.hint}".rstrip(), file=sys.stderr)
        return 1
    finally:
        if arguments.log and (scratch.path / "serial.log").exists():
            shutil.copyfile(scratch.path / "serial.log", arguments.log)
        scratch.remove()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
