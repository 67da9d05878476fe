"""Recognises a file that was given as a kernel and is not a bzImage, for error messages with a remedy.

The beginning of a file is enough, and may be hostile: a packed file is unpacked for a few KiB. `luod.image.bzimage`
reads a bzImage. `luod.image.foreign` does the same for initial RAM disks.
"""

from __future__ import annotations

import struct
from typing import Final

from luod.errors import ImageError
from luod.image import bzimage, foreign, packed, uki

LOOKED_AT: Final = 1024 * 1024
"""The number of bytes from the beginning that are enough."""

_IMAGE_MAGIC: Final = 0x38
_IMAGES: Final = {b"ARM\x64": "arm64", b"RSC\x05": "riscv64"}
"""Magics of the flat `Image` of the architectures that share this header."""
_LOONGARCH: Final = b"\xcd\x23\x82\x81"
"""LINUX_PE_MAGIC, which every kernel with an EFI stub has there, except those above."""
_ZBOOT: Final = struct.Struct("<4x4sII8x32s")
_ZIMG: Final = b"zimg"
_ELF_TYPES: Final = {1: "object", 2: "program", 3: "program or library", 4: "core dump"}
_UNPACKERS: Final = {"gzip": "gunzip -c", "xz": "xz -dc", "zstd": "zstd -dc", "lz4": "lz4 -dc", "bzip2": "bunzip2 -c"}
_MORE: Final = {
    b"\x27\x05\x19\x56": ("a U-Boot image (uImage)", "take the kernel out of it: dumpimage -p 0 -o Image FILE"),
    b"\xd0\x0d\xfe\xed": ("a device tree, or a FIT image with a kernel in it", "dumpimage -l FILE tells what is in it"),
    b"ANDROID!": ("an Android boot image", "take the kernel out of it with unpack_bootimg"),
}
_BZIMAGE: Final = "give a bzImage for this machine, such as /boot/vmlinuz-RELEASE"
_PEEK: Final = 64 * 1024


def refusal(data: bytes, *, whole: bool = True) -> ImageError:
    """Returns the error for a file that begins with `data` and is not a bzImage: its kind and the remedy.

    `whole`: the reader did not truncate it, so that sizes in it can be compared.
    """
    what, remedy = describe(data, whole=whole)
    return ImageError(f"this is {what}" if what else "not a bzImage: no HdrS in its header", hint=remedy)


def describe(data: bytes, *, whole: bool = True) -> tuple[str, str]:
    """Returns the kind of file and the remedy; "" for unknown ones."""
    for known in (_elf(data), _zboot(data), _flat(data), _efi(data, whole), _packed(data), _more(data)):
        if known is not None:
            return known
    return "", _BZIMAGE


def _elf(data: bytes) -> tuple[str, str] | None:
    if not data.startswith(b"\x7fELF") or len(data) < 18:
        return None
    (kind,) = struct.unpack_from(">H" if data[5] == 2 else "<H", data, 16)
    if kind == 1 and (b"vermagic=" in data or b".modinfo" in data):
        return "a kernel module", _BZIMAGE
    return f"an ELF file ({_ELF_TYPES.get(kind, 'of unknown type')}) that is no kernel", _BZIMAGE


def _zboot(data: bytes) -> tuple[str, str] | None:
    if len(data) < _ZBOOT.size or not data.startswith(b"MZ"):
        return None
    magic, offset, size, raw = _ZBOOT.unpack_from(data)
    if magic != _ZIMG:
        return None
    kind = raw.partition(b"\0")[0].decode("ascii", "backslashreplace")
    unpacker = _UNPACKERS.get("zstd" if kind.startswith("zstd") else kind, f"unpack {kind}")
    return (
        f"an EFI zboot image: a kernel packed with {kind} in an EFI program",
        f"take the kernel out of it: tail -c +{offset + 1} FILE | head -c {size} | {unpacker} > Image",
    )


def _flat(data: bytes) -> tuple[str, str] | None:
    magic = data[_IMAGE_MAGIC : _IMAGE_MAGIC + 4]
    machine = _IMAGES.get(magic) or ("loongarch64" if magic == _LOONGARCH and data.startswith(b"MZ") else None)
    if machine is None:
        return None
    return f"a kernel for {machine} (Image)", f"luod reads the bzImages of x86_64 only; {_BZIMAGE}"


def _efi(data: bytes, whole: bool) -> tuple[str, str] | None:
    try:
        found = uki.program(uki.of_bytes(data), len(data) if whole else 1 << 62)
    except ImageError as error:
        return f"an EFI program, which is damaged ({error.message})", _BZIMAGE
    if found is None:
        return None
    if ".linux" in found.sections:
        command = "objcopy -O binary --only-section=.linux FILE vmlinuz, and the same for .initrd and .cmdline"
        return (
            f"a unified kernel image (UKI) for {found.machine}",
            f"luoctl load, check and update take it apart; by hand: {command}",
        )
    if ".cmdline" in found.sections:
        return "an addon of unified kernel images, without a kernel", _BZIMAGE
    return f"an EFI program for {found.machine} that is no Linux kernel, such as a boot loader", _BZIMAGE


def _packed(data: bytes) -> tuple[str, str] | None:
    try:
        kind = packed.compression(data[:8])
    except ImageError:
        return None
    inner = _beginning(data, kind)
    if inner.startswith(packed.CPIO_MAGICS):
        return f"an archive packed with {kind}, such as an initial RAM disk", f"give it with --initrd; {_BZIMAGE}"
    what = "a bzImage" if bzimage.has_header(inner) else ""
    if inner and not what:
        what = "a kernel (vmlinux)" if b"Linux version " in inner else describe(inner, whole=False)[0]
    command = _UNPACKERS.get(kind)
    remedy = f"unpack it: {command} FILE > kernel" if what and command else _BZIMAGE
    return f"a file packed with {kind}, with {what or 'no kernel that luod knows'} in it", remedy


def _beginning(data: bytes, kind: str) -> bytes:
    """Returns the beginning of the data that is packed in `data`."""
    found = b""
    try:
        for piece in packed.Stream(data, kind):
            found += piece
            if len(found) >= _PEEK:
                break
    except ImageError:
        pass  # truncated, or of an unsupported compression
    return found


def _more(data: bytes) -> tuple[str, str] | None:
    if data.startswith(packed.CPIO_MAGICS):
        return "a cpio archive, such as an initial RAM disk", f"give it with --initrd; {_BZIMAGE}"
    for beginning, known in _MORE.items():
        if data.startswith(beginning):
            return known
    what = foreign.name(data)
    return (what, _BZIMAGE) if what else None
