"""A domain in libvirt's words: what luod adds to the XML, and takes from it. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from typing import Final
from xml.etree.ElementTree import Element

from luod.agents.guests.live import RAM_ID
from luod.errors import QemuRefusal
from luod.frozen import frozen

QEMU_NAMESPACE: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
COMMAND_LINE: Final = f"{{{QEMU_NAMESPACE}}}commandline"
ARGUMENT: Final = f"{{{QEMU_NAMESPACE}}}arg"
_OBJECT: Final = f"memory-backend-file,id={RAM_ID},"
_INCOMING: Final = ("-incoming", "defer")
_MIB: Final = 1 << 20
_UNITS: Final = {"b": 1, "bytes": 1, "KiB": 1 << 10, "k": 1 << 10, "MiB": _MIB, "GiB": 1 << 30, "TiB": 1 << 40}

ElementTree.register_namespace("qemu", QEMU_NAMESPACE)


@frozen
class Description:
    """A domain as libvirt describes it, without luod's arguments. `of_luod`: it had them. `incoming`: waited for."""

    text: str
    of_luod: bool
    incoming: bool

    @property
    def root(self) -> Element:
        return ElementTree.fromstring(self.text)

    @property
    def name(self) -> str:
        return self.root.findtext("name") or ""

    @property
    def kind(self) -> str:
        """Returns the domain's type, such as kvm."""
        return self.root.get("type", "")

    @property
    def ram_bytes(self) -> int:
        """Returns the size of the guest's RAM, which libvirt rounds up to whole MiB. Raises QemuRefusal."""
        memory = self.root.find("memory")
        unit = "KiB" if memory is None else memory.get("unit", "KiB")
        number = "" if memory is None else (memory.text or "").strip()
        if unit not in _UNITS or not number.isdecimal() or not int(number):
            raise QemuRefusal(f"the domain's memory is not understood: {number} {unit}", hint="see `virsh dumpxml`")
        return -(-int(number) * _UNITS[unit] // _MIB) * _MIB

    def label(self, model: str) -> str | None:
        """Returns the label that the domain itself gives its QEMU for a security model, such as dac."""
        for found in self.root.iterfind("seclabel"):
            if found.get("model") == model and found.get("type") == "static":
                return found.findtext("label")
        return None

    def started(self, ram: str, *, incoming: bool) -> str:
        """Returns the XML to start the domain by, on the RAM at the path `ram`.

        If `incoming`, QEMU waits for `migrate-incoming`, and the guest stays paused then.
        """
        root = self.root
        line = root.find(COMMAND_LINE)
        if line is None:
            line = ElementTree.SubElement(root, COMMAND_LINE)
        back_end = f"{_OBJECT}size={self.ram_bytes},mem-path={ram},share=on"
        # libvirt names a back end of its own before; QEMU uses the last one.
        words = ["-object", back_end, "-machine", f"memory-backend={RAM_ID}", "-only-migratable"]
        for word in (*words, *(_INCOMING if incoming else ())):
            ElementTree.SubElement(line, ARGUMENT, value=word)
        return ElementTree.tostring(root, encoding="unicode")

    def hardware(self) -> dict[str, str]:
        """Returns what the guest has, by names for people: two domains with the same are the same to their guests."""
        root = self.root
        found = {f"<{tag}>": _written(part) for tag in _PARTS if (part := root.find(tag)) is not None}
        alike = Counter[str]()
        for device in root.iterfind("devices/*"):
            if device.tag == "emulator":
                continue
            what = f"<{device.tag}> {_place(device)}".rstrip()
            found[f"{what} ({alike[what]})" if alike[what] else what] = _seen_by_the_guest(device)
            alike[what] += 1
        return found


_PARTS: Final = ("memory", "vcpu", "os", "features", "cpu")
_SEEN: Final = ("address", "model", "target", "readonly", "mac", "serial", "wwn", "protocol")
"""Of a device, what a guest can see; the rest is where libvirt finds it on the host."""


def read(text: str) -> Description:
    """Returns the domain of XML that libvirt printed. Raises QemuRefusal: it is not a domain's."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise QemuRefusal(f"libvirt's description of the domain cannot be read: {error}") from error
    if root.tag != "domain":
        raise QemuRefusal(f"libvirt describes a <{root.tag[:80]}>, and no domain")
    line = root.find(COMMAND_LINE)
    arguments = [] if line is None else line.findall(ARGUMENT)
    words = [argument.get("value", "") for argument in arguments]
    own = next((at - 1 for at, word in enumerate(words) if word.startswith(_OBJECT)), len(words))
    if line is not None and own < len(words):
        for argument in arguments[own:]:
            line.remove(argument)
        if not len(line):
            root.remove(line)
    return Description(
        text=ElementTree.tostring(root, encoding="unicode"),
        of_luod=own < len(words),
        incoming=tuple(words[-2:]) == _INCOMING and own < len(words),
    )


def differences(before: Description, now: Description) -> tuple[str, ...]:
    """Returns how the guest of `now` differs from that of `before`, in words; () if it is the same to the guest."""
    old, new = before.hardware(), now.hardware()
    return (
        *(f"{what} is missing" for what in old if what not in new),
        *(f"{what} was added" for what in new if what not in old),
        *(f"{what} is {new[what]}, and was {old[what]}" for what in old if what in new and new[what] != old[what]),
    )


def _seen_by_the_guest(device: Element) -> str:
    kept = Element(device.tag, {key: value for key, value in device.attrib.items() if key in ("type", "model", "bus")})
    if device.tag in _ON_THE_HOST:
        del kept.attrib["type"]
    for part in device:
        if part.tag in _SEEN and not (part.tag == "target" and device.tag == "interface"):
            kept.append(part)
    return _written(kept)


_ON_THE_HOST: Final = frozenset(["disk", "interface", "serial", "console", "parallel", "channel"])
"""Devices whose type says what they are on the host."""


def _place(device: Element) -> str:
    target, address = device.find("target"), device.find("address")
    if device.tag == "disk" and target is not None:
        return target.get("dev", "")
    if address is not None:
        return " ".join(value for key, value in sorted(address.attrib.items()) if key != "type")
    return device.get("type", "")


def _written(element: Element) -> str:
    """Returns an element as text: attributes in order, without white space between elements."""
    text = ElementTree.tostring(element, encoding="unicode")
    return ElementTree.canonicalize(text, strip_text=True)
