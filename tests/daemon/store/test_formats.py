"""The formats of luod's state: an older one is read, and a newer one is refused with words and left as it is."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from luod.daemon.clock import Crossing, Moment, Pace
from luod.daemon.store import entries
from luod.daemon.store.copies import WrittenByNewer, refuse_newer, understand_file
from luod.daemon.store.journal import Slots, pack, unpack
from luod.daemon.store.schema import (
    FORMAT,
    OLDEST_FORMAT,
    Departure,
    Doubt,
    Held,
    HeldFile,
    Image,
    IncomingRow,
    OutgoingRow,
    Owed,
    Record,
)
from luod.daemon.store.states import IncomingState, OutgoingState
from luod.frozen import frozen, members
from luod.testing.interpreter import Interpreter
from luod.version import __version__
from tests.daemon.host import Luod, states
from tests.library import ROOT

MEMBERS = """
Record format boot boot_id rows image generation departure arrival arrived held owed instance machine doubts
OutgoingRow base owner generation bytes preparing_seconds freezing_seconds kinds state discard
IncomingRow base owner generation bytes preparing_seconds freezing_seconds kinds state resumed_by
Image number initrd command_line
Held owner name files
HeldFile number name
Departure update generation skip_unready preparing_seconds freezing_seconds left pace reached crossing
Owed update generation jumped
Doubt what kept refuses
Moment wall monotonic ticks slack
Pace ticks error
Crossing clock seconds error_seconds arrived
"""
"""The members of format 7."""
FORMAT_5 = (
    b'{"format":5,"boot":2,"boot_id":"a-boot","rows":[["outgoing","vm",1000,null,4096,0.5,0.25,["memfd"],"ready",true],'
    b'["outgoing","vm",1000,3,0,0.0,0.0,[],"undeclared",false],["incoming","old",0,2,0,0.0,0.0,[],"torn"]],'
    b'"image":{"number":4,"initrd":true,"command_line":"quiet"},"generation":3,"departure":{"update":"u","generation":3,'
    b'"skip_unready":true,"preparing_seconds":60.0,"freezing_seconds":30.0,"left":{"wall":10.5,"monotonic":3.25,'
    b'"ticks":7,"slack":0.001},"pace":{"ticks":1000000000.0,"error":0.001}},"arrived":12.5,"held":[{"owner":5,'
    b'"name":"h","files":[{"number":1,"name":"f"}]}],"owed":{"update":"u","generation":3,"jumped":true},'
    b'"instance":"an-instance","doubts":[{"what":"w","kept":"/k","refuses":true}]}'
)
"""A record as luod wrote it when it had format 5."""
FORMAT_6 = (
    b'{"format":6,"boot":2,"boot_id":"a-boot","rows":[["outgoing","vm",1000,null,0,0.0,0.0,[],"declared",false],'
    b'["incoming","old",0,2,0,0.0,0.0,[],"resumed"]],"instance":"an-instance","luod":"0.9"}'
)
"""A record as luod wrote it when it had format 6."""


@frozen
class Tree:
    """A copy of luod's source of another format."""

    folder: Path
    version: str


class OtherLuod(Luod):
    """luod on the same machine and state directory, of the version in `tree`."""

    def __init__(self, luod: Luod, tree: Tree) -> None:
        super().__init__(luod.machine, Path(luod.state_directory))
        self._tree = tree

    def python(self, user: int | None = None) -> Interpreter:
        python = super().python(user)
        path = f"{self._tree.folder}:{ROOT}"
        return dataclasses.replace(python, environment={**python.environment, "PYTHONPATH": path})


@pytest.fixture
def newer(luod: Luod, tmp_path: Path) -> OtherLuod:
    """Returns a newer luod, whose format this one does not know."""
    tree = Tree(tmp_path / "newer", f"{__version__}+newer")
    shutil.copytree(ROOT / "src", tree.folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in (
        ("daemon/store/schema.py", f'FORMAT: "Final" = {FORMAT}\n', f'FORMAT: "Final" = {FORMAT + 1}\n'),
        ("version.py", f'"{__version__}"', f'"{tree.version}"'),
    ):
        path = tree.folder / "luod" / name
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
    return OtherLuod(luod, tree)


def end(luod: Luod) -> None:
    luod.kill_both()
    luod.stop()


def test_the_members_are_those_of_this_format() -> None:
    """Another member needs another FORMAT, and a test like that of format 5."""
    kinds = (Record, OutgoingRow, IncomingRow, Image, Held, HeldFile, Departure, Owed, Doubt, Moment, Pace, Crossing)

    assert FORMAT == 7
    assert [f"{kind.__name__} {' '.join(members(kind))}" for kind in kinds] == MEMBERS.split("\n")[1:-1]


def test_a_record_of_format_5_is_read() -> None:
    moment = Moment(10.5, 3.25, 7, 0.001)

    assert entries.read_whole(FORMAT_5) == Record(
        FORMAT,
        2,
        "a-boot",
        (
            OutgoingRow("vm", 1000, None, 4096, 0.5, 0.25, ("memfd",), OutgoingState.READY, True),
            OutgoingRow("vm", 1000, 3),
            IncomingRow("old", 0, 2, state=IncomingState.TORN),
        ),
        image=Image(4, True, "quiet"),
        generation=3,
        departure=Departure("u", 3, True, 60.0, 30.0, moment, Pace(1e9, 0.001)),
        arrived=12.5,
        held=(Held(5, "h", (HeldFile(1, "f"),)),),
        owed=Owed("u", 3, True),
        instance="an-instance",
        doubts=(Doubt("w", "/k", True),),
    )


def test_a_record_of_format_6_is_read() -> None:
    assert entries.read_whole(FORMAT_6) == Record(
        FORMAT,
        2,
        "a-boot",
        (
            OutgoingRow("vm", 1000, state=OutgoingState.DECLARED),
            IncomingRow("old", 0, 2, state=IncomingState.RESUMED, resumed_by=0),
        ),
        instance="an-instance",
    )


def test_a_record_names_the_luod_that_wrote_it() -> None:
    assert json.loads(entries.whole(Record(FORMAT, 1, "b")))["luod"] == __version__


@pytest.mark.parametrize("number", [OLDEST_FORMAT - 1, 0, -1])
def test_a_file_of_a_format_that_is_too_old_is_not_used(number: int) -> None:
    found = refuse_newer(understand_file(pack(5, b'{"format":%d}' % number, whole=True), "/file"))

    assert found.fault is not None
    assert found.fault.what == (
        f"the registry's file /file has format {number}, which an older luod wrote; this luod reads the formats"
        f" {OLDEST_FORMAT} to {FORMAT}"
    )


@pytest.mark.parametrize("more", ["", ',"luod":"9.1"', ',"luod":[7],"rows":"of another kind"'])
def test_a_file_of_a_newer_format_is_refused(more: str) -> None:
    found = understand_file(pack(5, f'{{"format":{FORMAT + 1}{more}}}'.encode(), whole=True), "/file")

    with pytest.raises(WrittenByNewer, match=f"/file has format {FORMAT + 1}, which .* wrote; this") as raised:
        refuse_newer(found)

    assert ("luod 9.1 wrote" in str(raised.value)) == ("9.1" in more)
    assert "nothing was changed" in raised.value.hint


@pytest.mark.parametrize("magic", [b"luodreg2", b"luodreg9", b"LUODREG1"])
def test_bytes_of_another_frame_are_no_log(magic: bytes) -> None:
    """The frame never changes, so these are damaged: they are kept, and updates are refused."""
    entry = magic + pack(1, FORMAT_5, whole=True)[8:]
    with closing(Slots.new()) as memory:
        memory.begin(entry)

        assert memory.read() is None
    assert unpack(entry) is None
    assert (found := understand_file(entry, "/file").fault) is not None
    assert (found.kind, found.risk) == ("damaged", True)


def test_a_newer_luod_takes_over_from_an_older_one(luod: Luod, newer: OtherLuod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    end(luod)

    newer.start()

    assert states(newer.vmm()) == {"outgoing vm": "dropped"}
    assert newer.status()["luod"] == f"{__version__}+newer"
    assert newer.status()["registry"] == []


def test_an_older_luod_refuses_the_file_of_a_newer_one_and_leaves_it(luod: Luod, newer: OtherLuod) -> None:
    luod.stop()
    newer.start()
    vmm = newer.vmm()
    vmm.call("create", name="vm", slot="s")
    end(newer)
    before = content(luod)

    supervisor = luod.start()

    refused = luod.luoctl("status", check=False)
    words = refused.text + refused.stderr.decode()
    assert refused.returncode == 4
    assert f"has format {FORMAT + 1}, which luod {__version__}+newer wrote" in words
    assert "install that version or a later one" in words
    assert vmm.refused("create", name="other", slot="o").kind == "Refused"
    luod.kill_serve()
    assert luod.luoctl("list", check=False).returncode == 4
    luod.stop()
    assert "state-newer" in supervisor.stderr
    assert content(luod) == before
    newer.start()
    assert states(newer.vmm()) == {"outgoing vm": "dropped"}
    assert newer.status()["registry"] == []


def test_an_older_luod_in_the_next_kernel_takes_no_session_from_a_newer_one(luod: Luod, newer: OtherLuod) -> None:
    luod.stop()
    newer.start()
    vmm = newer.vmm()
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram", seed=1)
    vmm.call("preserve", session="s", file="ram", token=1)
    newer.load()
    newer.update(ignore=("contents-undeclared",))

    luod.start()

    refused = luod.luoctl("list", check=False)
    assert "the registry in luod's session has format" in refused.text + refused.stderr.decode()
    luod.stop()
    newer.start()
    vmm = newer.vmm()
    assert list(states(vmm)) == ["incoming vm"]
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("retrieve", session="s", file=1, slot="ram")
    assert vmm.ask("digest", fd="ram") == digest


def content(luod: Luod) -> dict[str, bytes]:
    """Returns the files of the state directory."""
    found = Path(luod.state_directory).iterdir()
    return {path.name: path.read_bytes() for path in found if path.name not in ("lock", "policy")}
