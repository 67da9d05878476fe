"""Two command lines are compared by what the guest has, not by how they are spelled."""

from __future__ import annotations

import pytest

from luod.agents.qemu.capabilities import Capabilities
from luod.agents.qemu.command_line import plan
from luod.agents.qemu.compare import differences

SOME = Capabilities("qemu", "7.2.22", ("pc-q35-6.2", "pc-q35-7.2"), (("q35", "pc-q35-7.2"),), "pc-q35-7.2")


def compared(old: list[str], new: list[str]) -> tuple[str, ...]:
    size = ["-m", "64M"]
    return differences(plan([*size, *old], SOME), plan([*size, *new], SOME))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["-M", "q35"], ["-machine", "type=pc-q35-7.2"]),
        (["-M", "q35", "-machine", "usb=on"], ["-machine", "q35,usb=on"]),
        (["--device", "e1000,id=a,addr=3"], ["-device", '{"driver":"e1000","addr":"3","id":"a"}']),
        (["a.img"], ["-hda", "a.img"]),
        (["-m", "size=64"], []),
        (["-device", "e1000", "-vnc", ":1"], ["-vnc", ":1", "-device", "e1000"]),
    ],
)
def test_another_spelling_is_no_difference(old: list[str], new: list[str]) -> None:
    assert compared(old, new) == ()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ([], ["-device", "qemu-xhci"], ["added: -device driver=qemu-xhci"]),
        (["-device", "qemu-xhci"], [], ["no longer there: -device driver=qemu-xhci"]),
        (["-device", "e1000"], ["-device", "e1000"] * 2, ["added: -device driver=e1000"]),
        (["-M", "pc-q35-6.2"], ["-M", "q35"], ["the machine type was pc-q35-6.2, and is pc-q35-7.2"]),
        ([], ["-m", "128M"], ["the RAM had 67108864 bytes, and has 134217728"]),
        (["-M", "q35,usb=on"], ["-M", "q35,usb=off"], ["no longer there: -machine usb=on", "added: -machine usb=off"]),
        (["-device", "a", "-device", "b"], ["-device", "b", "-device", "a"], ["the options are in another order"]),
        (["-hda", "a.img"], ["-hda", "b.img"], ["no longer there: -hda a.img", "added: -hda b.img"]),
    ],
)  # fmt: skip
def test_each_difference_is_said(old: list[str], new: list[str], says: list[str]) -> None:
    said = compared(old, new)

    assert len(said) == len(says)
    assert all(sentence.startswith(part) for part, sentence in zip(says, said, strict=True))
