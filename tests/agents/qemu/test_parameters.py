"""The notations of QEMU's values: keys and values, JSON, and the older character devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luod.agents.qemu import parameters
from luod.agents.qemu.parameters import Parameters
from luod.errors import QemuRefusal


@pytest.mark.parametrize(
    ("text", "implied", "items"),
    [
        ("", "driver", ()),
        ("virtio-blk", "driver", (("driver", "virtio-blk"),)),
        ("virtio-blk,drive=d", "driver", (("driver", "virtio-blk"), ("drive", "d"))),
        ("driver=virtio-blk,drive=d", "driver", (("driver", "virtio-blk"), ("drive", "d"))),
        ("file=a,,b.img,if=none", "", (("file", "a,b.img"), ("if", "none"))),
        ("file=a,,", "", (("file", "a,"),)),
        ("file=,,,,", "", (("file", ",,"),)),
        ("file=a,", "", (("file", "a"),)),
        ("a,,b,c=d", "name", (("name", "a,b"), ("c", "d"))),
        ("socket,server,nowait", "backend", (("backend", "socket"), ("server", "on"), ("wait", "off"))),
        ("a=b=c", "", (("a", "b=c"),)),
        ("qcow2,file.filename=x", "driver", (("driver", "qcow2"), ("file.filename", "x"))),
        ('{"driver":"qcow2","file":{"filename":"x"},"ro":true,"n":[1]}', "driver",
         (("driver", "qcow2"), ("file.filename", "x"), ("ro", "on"), ("n.0", "1"))),
    ],
)  # fmt: skip
def test_each_notation_becomes_keys_and_values(text: str, implied: str, items: tuple[tuple[str, str], ...]) -> None:
    assert parameters.read(text, implied).items == items


def test_the_last_value_of_a_repeated_key_counts() -> None:
    assert parameters.read("size=1G,size=2G").get("size") == "2G"


@pytest.mark.parametrize("text", ["{", "{'driver':'x'}", '{"a":' * 10_000, '{"a":1}x'])
def test_broken_json_is_refused_with_what_is_wrong(text: str) -> None:
    with pytest.raises(QemuRefusal, match="not JSON") as caught:
        parameters.read(text)

    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("stdio", (("backend", "stdio"),)),
        ("mon:stdio", (("backend", "stdio"),)),
        ("unix:/run/s,server,nowait", (("backend", "socket"), ("path", "/run/s"), ("server", "on"), ("wait", "off"))),
        ("tcp:[::1]:5000,server=on", (("backend", "socket"), ("host", "[::1]"), ("port", "5000"), ("server", "on"))),
        ("file:/var/log/a,b", (("backend", "file"), ("path", "/var/log/a,b"))),
        ("chardev:c0", (("backend", "chardev"), ("chardev", "c0"))),
    ],
)
def test_an_older_character_device_becomes_that_of_a_chardev(text: str, items: tuple[tuple[str, str], ...]) -> None:
    assert parameters.character_device(text).items == items


@given(st.lists(st.tuples(st.from_regex(r"[a-mo-z][a-z.-]{0,9}", fullmatch=True), st.text(max_size=9))))
def test_what_is_written_is_read(items: list[tuple[str, str]]) -> None:
    text = ",".join(f"{key}={parameters.escaped(value)}" for key, value in items)

    assert parameters.read(text) == Parameters(tuple(items))
