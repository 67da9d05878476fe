"""The counting guest of the tests (counting.S), and what is left of it outside: its serial port and its disk."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from luod.testing import require_tool

SOURCE = Path(__file__).with_name("counting.S")
SECTOR = 512
DISK_SIZE = 16 << 20
"""More sectors than a test's guest counts."""
PER_SECOND = 19
"""Numbers that a guest counts: the timer has hardly a slower rate, and each number takes processor time."""
_TIMER_HERTZ = 1_193_182
_NUMBER = Struct("<I")


def boot_sector(folder: Path, per_second: int = PER_SECOND) -> bytes:
    """Returns the guest's program, one sector. It is assembled in `folder`."""
    objects, program = folder / "counting.o", folder / "counting"
    assembler, linker = (require_tool(tool, package="binutils") for tool in ("as", "ld"))
    rate = ["--defsym", f"DIVISOR={_TIMER_HERTZ // per_second}"]
    subprocess.run([assembler, "--32", *rate, SOURCE, "-o", objects], check=True)
    flat = ["-Ttext", "0x7c00", "--oformat", "binary"]
    subprocess.run([linker, "-m", "elf_i386", *flat, objects, "-o", program], check=True)
    return program.read_bytes()


@dataclass(frozen=True)
class CountingGuest:
    """A guest with a folder of its own. `disk_format` is raw or qcow2."""

    name: str
    folder: Path
    disk_format: str = "raw"
    mebibytes: int = 32
    per_second: int = PER_SECOND

    @property
    def disk(self) -> Path:
        return self.folder / f"disk.{self.disk_format}"

    @property
    def console(self) -> Path:
        """Returns the file with all that it printed, in every boot of the host."""
        return self.folder / "console"

    def make_disk(self) -> None:
        """Makes the disk that it boots from."""
        raw = self.folder / "disk.raw"
        raw.write_bytes(boot_sector(self.folder, self.per_second))
        with raw.open("r+b") as file:
            file.truncate(DISK_SIZE)
        if self.disk_format != "raw":
            qemu_img = require_tool("qemu-img", package="qemu-utils")
            subprocess.run([qemu_img, "convert", "-O", self.disk_format, raw, self.disk], check=True)
            raw.unlink()

    def arguments(self, *, machine: str = "pc", drive: str = "", console: Sequence[str] | None = None) -> list[str]:
        """Returns QEMU's arguments. `drive` is added to the drive's options, `console` replaces the console's."""
        if console is None:
            console = ["-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console"]
        disk = f"file={self.disk},format={self.disk_format},if=virtio{drive and ','}{drive}"
        plain = ["-nodefaults", "-display", "none"]
        return ["-machine", machine, "-m", f"{self.mebibytes}M", *plain, "-drive", disk, *console]

    def numbers(self) -> list[int]:
        """Returns the numbers that it printed. Raises AssertionError if it printed anything else."""
        return parse(self.console.read_bytes() if self.console.exists() else b"")

    def on_disk(self) -> list[int]:
        """Returns the numbers on its disk, in the order of the sectors. Only for qcow2 must QEMU have ended."""
        if self.disk_format == "raw":
            content = self.disk.read_bytes()
        else:
            qemu_img = require_tool("qemu-img", package="qemu-utils")
            raw = self.folder / "read.raw"
            subprocess.run([qemu_img, "convert", "-O", "raw", self.disk, raw], check=True)
            content = raw.read_bytes()
        found: list[int] = []
        while number := _NUMBER.unpack_from(content, SECTOR * (len(found) + 1))[0]:
            found.append(number)
        return found

    def assert_nothing_is_lost(self) -> int:
        """Checks that no number is missing or there twice, and that the disk agrees. Returns the last number."""
        numbers = self.numbers()
        counted = list(range(1, len(numbers) + 1))
        assert numbers == counted, f"{self.name} printed {_around_the_gap(numbers)}"
        on_disk = self.on_disk()
        # A number is on the disk before it is printed.
        assert on_disk[: len(numbers)] == counted, f"{self.name} has on its disk {_around_the_gap(on_disk)}"
        return len(numbers)


def parse(console: bytes) -> list[int]:
    """Returns the numbers of complete lines. Raises AssertionError for a line that has no number."""
    lines = console.split(b"\n")[:-1]
    strange = [line for line in lines if not line.isdigit()]
    assert not strange, f"the guest printed {strange[:3]}"
    return [int(line) for line in lines]


def _around_the_gap(numbers: Sequence[int]) -> str:
    at = next((index for index, number in enumerate(numbers) if number != index + 1), len(numbers))
    return f"{numbers[max(0, at - 3) : at + 3]} as number {at + 1} of {len(numbers)}"
