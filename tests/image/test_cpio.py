"""luod.image.cpio unpacks as the kernel does: entries of every kind, archives in a row, every compression, hostile
ones.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as some

from luod.errors import ImageError, ImageUnreadable
from luod.image import cpio, module_file
from luod.image.cpio import Unpacked, unpack
from luod.image.tree import Tree
from tests.image.archives import (
    DIRECTORY,
    END,
    MODULE,
    PACKERS,
    PATH,
    directories,
    entry,
    link,
    lz4_legacy,
)
from tests.image.archives import cpio as archive


def tree(*parts: bytes) -> Tree:
    return unpack(b"".join(parts)).tree


def stops(disk: bytes) -> str:
    """Returns the kernel's message where it stops, with what was unpacked before."""
    return unpack(disk).stopped


# -- Entries -----------------------------------------------------------------------------------------------------


def test_a_name_ends_at_its_first_zero_byte() -> None:
    assert tree(directories("etc"), entry("etc/a", b"x", padding=301), END).read("/etc/a") == b"x"


@pytest.mark.parametrize("name", ["etc/a", "/etc/a", "./etc/a", "etc//./a", "etc/../etc/a"])
def test_a_name_is_a_path_from_the_root(name: str) -> None:
    assert tree(directories("etc"), entry(name, b"x"), END).read("etc/a") == b"x"


def test_a_name_without_an_end_is_an_error() -> None:
    damaged = entry("abc", b"x").replace(b"abc\0", b"abcd")
    with pytest.raises(ImageError, match="malformed archive"):
        unpack(damaged + END)


def test_an_entry_whose_name_is_too_long_is_left_out() -> None:
    found = tree(entry("a" * 5000, b"x"), entry("b", b"y"), END)
    assert found.names("/") == ["b"]


def test_a_later_entry_overrides_an_earlier_one() -> None:
    assert tree(entry("a", b"long content"), entry("a", b"new"), END).read("a") == b"new"
    assert tree(entry("a", b"x"), END, entry("a", b""), END).read("a") == b""


def test_an_entry_of_another_kind_takes_the_place_of_an_earlier_one() -> None:
    assert tree(link("a", "b"), entry("b", b"1"), entry("a", b"2"), END).read("b") == b"1"
    assert tree(entry("a", b"x"), link("a", "b"), entry("b", b"y"), END).read("a") == b"y"
    found = tree(link("lib", "usr/lib"), entry("lib", mode=DIRECTORY), entry("lib/x", b"y"), END)
    assert (found.read("lib/x"), found.read("usr/lib/x")) == (b"y", None)


def test_a_directory_with_files_in_it_stays() -> None:
    found = tree(directories("a"), entry("a/b", b"x"), entry("a", b"file"), link("a", "c"), END)
    assert found.read("a/b") == b"x"


@pytest.mark.parametrize("body", [0, 1, 2])
def test_hard_links_share_the_content_of_whichever_entry_has_it(body: int) -> None:
    entries = [entry(name, b"x" if at == body else b"", inode=7, links=3) for at, name in enumerate("abc")]
    found = tree(*entries, END)
    assert [found.read(name) for name in "abc"] == [b"x", b"x", b"x"]


def test_hard_links_end_with_their_archive() -> None:
    found = tree(entry("a", b"x", inode=7, links=2), END, entry("b", b"y", inode=7, links=2), END)
    assert (found.read("a"), found.read("b")) == (b"x", b"y")


def test_a_file_with_one_link_is_never_a_hard_link() -> None:
    found = tree(entry("a", b"x", inode=7), entry("b", b"", inode=7), END)
    assert (found.read("a"), found.read("b")) == (b"x", b"")


def test_a_module_under_a_hard_link_is_one() -> None:
    found = tree(entry("a.ko", inode=7, links=2), entry("b", MODULE, inode=7, links=2), END)
    module = found.find("a.ko")
    assert module is not None
    assert module.formats == ("vfio-pci-v1",)


def test_symbolic_links_are_followed_as_the_kernel_follows_them() -> None:
    found = tree(
        directories("usr/lib", "x/y"),
        link("lib", "usr/lib"),
        link("x/up", "../lib"),
        link("x/y/absolute", "/x/up/file"),
        link("loop", "loop"),
        link("dangling", "nowhere"),
        entry("lib/file", b"f"),
        END,
    )
    assert found.read("usr/lib/file") == found.read("x/up/file") == found.read("x/y/absolute") == b"f"
    assert found.read("loop") is found.read("dangling") is found.read("loop/file") is None
    assert found.read("usr/lib/file/file") is None


def test_links_through_more_than_40_links_are_not_followed() -> None:
    links = [link(f"l{at}", f"l{at + 1}") for at in range(60)]
    found = tree(*links, entry("l60", b"x"), END)
    assert (found.read("l21"), found.read("l20"), found.read("l19")) == (b"x", b"x", None)


def test_device_nodes_and_directories_have_no_content() -> None:
    found = tree(directories("dev"), entry("dev/console", mode=0o020600), END)
    assert (found.read("dev/console"), found.names("dev")) == (None, ["console"])


def test_a_checksum_is_verified() -> None:
    assert tree(entry("a", b"abc", checksum=sum(b"abc")), END).read("a") == b"abc"
    with pytest.raises(ImageError, match="bad data checksum"):
        unpack(entry("a", b"abc", checksum=1) + END)
    with pytest.raises(ImageError, match="bad data checksum"):
        unpack(entry("firmware/large", bytes(200_000) + b"x", checksum=1) + END)


def test_directories_that_no_entry_makes_are_counted() -> None:
    assert tree(entry("a/b/c", b"x"), END).implied == 2
    assert tree(directories("a/b"), entry("a/b/c", b"x"), END).implied == 0


# -- Archives in a row -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packer", PACKERS)
def test_archives_follow_one_another_with_zeros_in_between(packer: str) -> None:
    """As microcode in front of the RAM disk proper does, which is not packed."""
    early = archive({"kernel/x86/microcode/GenuineIntel.bin": b"\1" * 5000})
    disk = early + bytes(516) + PACKERS[packer](archive({"a": b"1"})) + bytes(7)
    disk += bytes(-len(disk) % 4) + archive({"b": b"2"}) + bytes(700)
    found = unpack(disk)
    assert (found.tree.read("a"), found.tree.read("b"), found.stopped, found.ended) == (b"1", b"2", "", True)


@pytest.mark.parametrize("second", PACKERS)
@pytest.mark.parametrize("first", [name for name in PACKERS if name not in ("not", "lz4")])
def test_packed_archives_follow_one_another_directly(first: str, second: str) -> None:
    disk = PACKERS[first](archive({"a": b"1"}))
    disk += bytes(-len(disk) % 4 if second == "not" else 0) + PACKERS[second](archive({"b": b"2"}))
    found = unpack(disk).tree
    assert (found.read("a"), found.read("b")) == (b"1", b"2")


def test_what_follows_an_lz4_archive_directly_is_taken_for_a_part_of_it() -> None:
    disk = lz4_legacy(archive({"a": b"1"}))
    assert unpack(disk + lz4_legacy(archive({"b": b"2"}))).tree.read("b") == b"2"
    with pytest.raises(ImageError, match="lz4"):
        unpack(disk + gzip.compress(archive({"b": b"2"})))


def test_several_archives_may_be_in_one_packed_stream() -> None:
    found = unpack(gzip.compress(archive({"a": b"1"}) + archive({"b": b"2"}) + bytes(64)))
    assert (found.tree.read("a"), found.tree.read("b"), found.stopped) == (b"1", b"2", "")


def test_a_packed_stream_behind_an_archive_may_be_empty() -> None:
    found = unpack(archive({"a": b"1"}) + gzip.compress(b"") + gzip.compress(archive({"b": b"2"})))
    assert (found.tree.names("/"), found.stopped) == (["a", "b"], "")


def test_an_archive_needs_no_end_mark() -> None:
    found = unpack(entry("a", b"1") + entry("b", b"2"))
    assert (found.tree.read("b"), found.ended) == (b"2", False)
    assert unpack(gzip.compress(entry("a", b"1"))).ended is False


@pytest.mark.parametrize(
    ("junk", "why"),
    [
        (b"junk", "invalid magic"),
        (b"\0\0\0\0junk", "invalid magic"),
        (b"0123" * 40, "no cpio magic"),
        (b"\0" + archive({"b": b"2"}), "broken padding"),
    ],
)
def test_the_kernel_keeps_what_it_unpacked_before_something_else_follows(junk: bytes, why: str) -> None:
    found = unpack(archive({"a": b"1"}) + junk)
    assert found.tree.names("/") == ["a"]
    assert why in found.stopped


def test_something_else_in_a_packed_stream_stops_the_kernel_too() -> None:
    assert "junk within compressed archive" in stops(gzip.compress(archive({"a": b"1"}) + b"junk"))


def test_microcode_followed_by_something_else_is_no_disk() -> None:
    with pytest.raises(ImageError, match="invalid magic"):
        unpack(archive({"kernel/x86/microcode/GenuineIntel.bin": b"\1" * 5000}) + b"<html>404")


# -- Other files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packer", PACKERS)
def test_a_disk_cut_off_is_an_error(packer: str) -> None:
    disk = PACKERS[packer](archive({PATH: MODULE, "conf/modules": bytes(range(256)) * 20}).rstrip(b"\0"))
    for length in range(8, len(disk) - 8, max(1, len(disk) // 60)):
        try:
            found = unpack(disk[:length])
        except ImageError:
            continue
        # Between two entries: the kernel sees no error, and there is no end mark.
        assert packer == "not"
        assert not found.ended


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        file.addfile(tarfile.TarInfo("a"))
    return out.getvalue()


def ext2() -> bytes:
    return bytes(1024) + b"\x10" + bytes(55) + b"\x53\xef" + bytes(4096)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (bytes(4096), "only zeros"),
        (b"<!DOCTYPE html><html>404 Not Found</html>", "web page"),
        (b"not found\n", "text file"),
        (b"#!/bin/sh\n" * 20, "script"),
        (b"\x7fELF" + bytes(100), "ELF"),
        (b"MZ" + bytes(0x200) + b"HdrS" + bytes(100), "Linux kernel"),
        (b"MZ" + bytes(0x400), "EFI"),
        (b"070707" + b"0" * 200, "newc"),
        (ext2(), "ext4"),
        (b"hsqs" + bytes(100), "squashfs"),
        (b"-rom1fs-" + bytes(100), "romfs"),
        (b"\x45\x3d\xcd\x28" + bytes(100), "cramfs"),
        (tar(), "tar"),
        (gzip.compress(tar(), mtime=0), "tar"),
        (gzip.compress(b"", mtime=0), "cut off"),
        (b"070701" + b"z" * 104, "damaged header"),
        (entry("a").replace(b"00000001", b"0000_001", 1), "damaged header"),
        (entry("a").replace(b"00000001", b" +000001", 1), "damaged header"),
        (b"070701" + b"F" * 104, "cut off"),
        (bytes(range(128, 256)), "invalid magic"),
    ],
)
def test_what_is_no_disk_is_an_error_that_names_it(data: bytes, what: str) -> None:
    with pytest.raises(ImageError, match=what):
        unpack(data)


def test_a_checksum_of_xz_that_the_kernel_does_not_know_is_an_error() -> None:
    with pytest.raises(ImageError, match="checksum") as caught:
        unpack(lzma.compress(archive({"a": b"1"}), check=lzma.CHECK_CRC64))
    assert "crc32" in caught.value.hint


def test_what_is_packed_with_lzo_is_not_known_to_be_damaged() -> None:
    with pytest.raises(ImageUnreadable, match="lzo"):
        unpack(b"\x89LZO\0\r\n\x1a\n" + bytes(100))


# -- Bounds ------------------------------------------------------------------------------------------------------


def test_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpio, "UNPACKED_MAX", 4 << 20)
    with pytest.raises(ImageError, match="more than"):
        unpack(gzip.compress(archive({"big": bytes(6 << 20)})))


def test_names_and_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpio, "NAMES_MAX", 1000)
    with pytest.raises(ImageError, match="names"):
        unpack(b"".join(link(f"l{at}", "t" * 100) for at in range(20)) + END)
    monkeypatch.setattr(cpio, "_ENTRIES_MAX", 10)
    with pytest.raises(ImageError, match="files"):
        unpack(b"".join(entry(str(at)) for at in range(20)) + END)


def test_content_of_no_interest_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpio, "KEPT_MAX", 100)
    found = tree(
        entry("program", b"\x7fELF" + bytes(50)),
        entry("large", bytes(100_000)),
        entry("lib/firmware/a", b"x"),
        entry("first", bytes(60)),
        entry("second", bytes(60)),
        END,
    )
    kept = [name for name, inode in found.files() if inode.content is not None]
    assert kept == ["first"]


def test_a_module_that_is_a_bomb_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_file, "SIZE_MAX", 1 << 20)
    module = tree(entry("a.ko.xz", lzma.compress(bytes(2 << 20))), END).find("a.ko.xz")
    assert module is not None
    module_file.look_into(module)
    assert "more than" in module.damage


def test_packed_modules_are_kept_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a module is unpacked at once."""
    module = lzma.compress(MODULE)
    monkeypatch.setattr(cpio, "KEPT_MAX", len(module))
    found = tree(entry("a.ko.xz", module), entry("b.ko.xz", module), END)
    assert [(bool(inode.packed), inode.formats) for _path, inode in found.files()] == [
        (True, ()),
        (False, ("vfio-pci-v1",)),
    ]


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("before", [0, 65_000, 65_500, 65_536, 131_000])
def test_a_module_is_searched_across_the_pieces_of_a_stream(packer: str, before: int) -> None:
    found = tree(PACKERS[packer](archive({PATH: b"\x7fELF" + bytes(before) + b"\0vfio-pci-v1\0" + bytes(70_000)})))
    module = found.find(PATH)
    assert module is not None
    assert module.formats == ("vfio-pci-v1",)


def test_deep_directories_are_walked_without_recursion() -> None:
    deep = "/".join(["d"] * 1500)
    assert [path for path, _inode in tree(entry(f"{deep}/f", b"x"), END).files()] == [f"{deep}/f"]


def read_or_refused(data: bytes) -> Unpacked | None:
    try:
        return unpack(data)
    except ImageError:
        return None


@given(data=some.binary(max_size=600), packer=some.sampled_from(sorted(PACKERS)))
def test_random_bytes_are_read_or_refused(data: bytes, packer: str) -> None:
    read_or_refused(PACKERS[packer](data))


@given(random=some.data())
def test_a_damaged_disk_is_read_or_refused(random: some.DataObject) -> None:
    disk = bytearray(archive({PATH: MODULE, "conf/modules": b"vfio-pci\n"}))
    for _ in range(random.draw(some.integers(1, 5))):
        disk[random.draw(some.integers(0, len(disk) - 1))] = random.draw(some.integers(0, 255))
    read_or_refused(bytes(disk))
