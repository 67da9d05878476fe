"""luod.image.cpio against the kernel: both unpack the same initial RAM disks, and the trees are compared.

The kernel runs without luod's agent: its init is a script in the RAM disk that lists the files on the console.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
from pathlib import Path

import pytest
import zstandard

from luod.errors import ImageError, MachineUnavailable
from luod.image import boot_config, cpio
from luod.image.tree import Inode
from luod.testing.kernel import qemu
from luod.testing.kernel.initramfs import BUSYBOX
from luod.testing.tools import cannot_run, require_tool
from tests.image.archives import DIRECTORY, END, LINK, directories, entry, link, with_boot_config

TIMEOUT = 100
CONSOLE, PIPE, SOCKET = 0o020600, 0o010644, 0o140644
INIT = b"""\
#!/bin/busybox sh
/bin/busybox --install /bin
mkdir -p /proc
mount -t proc proc /proc
cd /
echo BEGIN
find t* | sort | while read -r name; do
    if [ -L "$name" ]; then echo "link $name $(readlink "$name")"
    elif [ -d "$name" ]; then echo "directory $name"
    elif [ -f "$name" ]; then echo "file $name $(md5sum < "$name" | cut -c1-32)"
    else echo "node $name"; fi
done
echo "line $(cat /proc/cmdline)"
echo END
poweroff -f
"""


@pytest.fixture(scope="module")
def base() -> bytes:
    """Returns the archive with which every disk begins."""
    busybox = Path(require_tool("busybox", package="busybox-static"))
    program = (BUSYBOX if BUSYBOX.exists() else busybox).read_bytes()
    files = entry("bin/busybox", program, mode=0o100755) + entry("init", INIT, mode=0o100755)
    return directories("bin", "dev") + files + entry("dev/console", mode=CONSOLE) + END


def unpacked_by_the_kernel(disk: bytes, folder: Path, *, append: str = "") -> list[str]:
    """Returns what its init lists, in order; the last is the command line."""
    try:
        program, kernel = qemu.program(), qemu.kernel_image()
    except MachineUnavailable as error:
        cannot_run(str(error))
    (folder / "initrd").write_bytes(disk)
    machine = [program, "-M", "q35,i8042=off", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults", "-no-reboot"]
    boot = ["-kernel", kernel, "-initrd", str(folder / "initrd"), "-display", "none", "-serial", "stdio"]
    line = f"console=ttyS0 quiet loglevel=0 panic=-1 no_timer_check {append}"
    output = subprocess.run(
        [*machine, *boot, "-append", line], capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=True
    ).stdout.decode("utf-8", "replace")
    lines = output.replace("\r", "").split("\n")
    assert "BEGIN" in lines, output[-2000:]
    return lines[lines.index("BEGIN") + 1 : lines.index("END")]


def unpacked_by_luod(disk: bytes) -> list[str]:
    end, _configuration = boot_config.tail(disk)
    tree = cpio.unpack(disk, end).tree

    def listed(directory: Inode, path: str) -> list[str]:
        found = []
        for name, inode in directory.children.items():
            where = path + name
            if inode.kind == "link":
                found.append(f"link {where} {inode.target}")
            elif inode.kind == "file":
                found.append(f"file {where} {hashlib.md5(inode.content or b'').hexdigest()}")
            else:
                found.append(f"{inode.kind} {where}")
                found += listed(inode, f"{where}/")
        return found

    return sorted(line for line in listed(tree.root, "") if line.split()[1].startswith("t"))


def directory(name: str) -> bytes:
    return entry(name, mode=DIRECTORY)


NAMES = b"".join(
    [
        directory("t1"),
        entry("t1/padded", b"x", padding=301),
        entry("/t1/absolute", b"1"),
        entry("./t1/dot", b"2"),
        entry("t1//.././t1/up", b"3"),
        entry("a" * 5000, b"x"),
        directory("t1/slash/"),
        entry("t1/checked", b"abc", checksum=sum(b"abc")),
        entry("t1/body", b"body", mode=DIRECTORY),
        entry("t1/console", mode=CONSOLE),
        entry("t1/pipe", mode=PIPE),
        entry("t1/socket", mode=SOCKET),
        entry("t1/last", b"4"),
    ]
)
OVERRIDING = b"".join(
    [
        directory("t2"),
        entry("t2/a", b"long content"),
        entry("t2/a", b"new"),
        entry("t2/emptied", b"x"),
        entry("t2/emptied", b""),
        link("t2/l", "b"),
        entry("t2/l", b"file"),
        entry("t2/f", b"file"),
        link("t2/f", "b"),
        directory("t2/usr"),
        link("t2/lib", "usr"),
        directory("t2/lib"),
        entry("t2/lib/x", b"y"),
        directory("t2/full"),
        entry("t2/full/f", b"x"),
        entry("t2/full", b"file"),
        link("t2/full", "a"),
        directory("t2/empty"),
        entry("t2/empty", b"file"),
    ]
)
LINKS = b"".join(
    [
        directory("t3"),
        entry("t3/a", inode=7, links=3),
        entry("t3/b", b"xx", inode=7, links=3),
        entry("t3/c", inode=7, links=3),
        entry("t3/d", b"longer", inode=8, links=2),
        entry("t3/e", b"two", inode=8, links=2),
        entry("t3/same", b"1", inode=9, links=2),
        entry("t3/same", b"2", inode=9, links=2),
        entry("t3/n1", mode=CONSOLE, inode=11, links=2),
        entry("t3/n2", mode=CONSOLE, inode=11, links=2),
        END,
        entry("t3/after", b"z", inode=8, links=2),
        directory("t3/real"),
        link("t3/ln", "real"),
        entry("t3/ln/through", b"5"),
        link("t3/up", "../t3/ln"),
        entry("t3/up/through", b"6"),
        link("t3/loop", "loop"),
        entry("t3/loop/x", b"7"),
        entry("t3/long", b"x" * 5000, mode=LINK),
        END,
    ]
)


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress], ids=["plain", "gzip", "zstd"]
)
def test_entries_of_every_kind_become_the_same_tree(pack: type[bytes], base: bytes, tmp_path: Path) -> None:
    disk = base + bytes(-len(base) % 4) + pack(NAMES + OVERRIDING + LINKS)
    *found, _line = unpacked_by_the_kernel(disk, tmp_path)
    assert sorted(found) == unpacked_by_luod(disk)


ONE = directory("t1") + entry("t1/a", b"1") + END
TWO = directory("t2") + entry("t2/b", b"2") + END


@pytest.mark.parametrize(
    ("disk", "kept"),
    [
        (ONE + b"junk" + TWO, 2),
        (ONE + b"\0" + TWO, 2),
        (ONE + b"\0" + gzip.compress(TWO), 2),
        (gzip.compress(ONE + bytes(1000)) + b"\0" + gzip.compress(bytes(512) + TWO), 4),
        (gzip.compress(ONE + b"junk") + gzip.compress(TWO), 2),
        (gzip.compress(ONE) + gzip.compress(b"") + gzip.compress(TWO), 4),
        (ONE[: -len(END)], 2),
    ],
    ids=["junk", "padding", "padding-gzip", "gzip-gzip", "gzip-junk", "gzip-empty", "no-end-mark"],
)
def test_what_follows_an_archive_is_taken_alike(disk: bytes, kept: int, base: bytes, tmp_path: Path) -> None:
    disk = base + bytes(-len(base) % 4) + disk
    *found, _line = unpacked_by_the_kernel(disk, tmp_path)
    assert (sorted(found), len(found)) == (unpacked_by_luod(disk), kept)


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(TWO)[:-30],
        entry("t2abc").replace(b"t2abc\0", b"t2abcd") + TWO,
        entry("t3", b"abc", checksum=1) + TWO,
    ],
    ids=["cut-off", "no-end-of-name", "checksum"],
)
def test_what_luod_refuses_is_not_unpacked_as_a_whole(packed: bytes, base: bytes, tmp_path: Path) -> None:
    disk = base + bytes(-len(base) % 4) + packed
    *found, _line = unpacked_by_the_kernel(disk, tmp_path)
    assert "file t2/b c81e728d9d4c2f636f067f89cc14862c" not in found
    with pytest.raises(ImageError):
        cpio.unpack(disk)


def test_a_boot_configuration_becomes_the_same_command_line(base: bytes, tmp_path: Path) -> None:
    """Where the kernel has CONFIG_BOOT_CONFIG; where it has not, it leaves it out of the RAM disk."""
    text = 'kernel {\n a.b = 1, "c d" # comment\n e\n}\nkernel.a.b += 2\ninit.f = g\n'
    disk = with_boot_config(base + ONE, text)
    *found, line = unpacked_by_the_kernel(disk, tmp_path, append="bootconfig -- q")
    assert sorted(found) == unpacked_by_luod(disk)
    kernel, init = boot_config.parse(boot_config.tail(disk)[1] or b"")
    given = line.removeprefix("line ")
    if "a.b" in given:
        assert given.startswith(f"{kernel} ")
        assert given.split() == [*kernel.split(), *given.split()[len(kernel.split()) : -2], init, "q"]
