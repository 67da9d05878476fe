"""`luoctl show`, with manifests that no honest program writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from luod.linux import memfd
from luod.manifest import MANIFEST_TOKEN, PART_SIZE, Log, new_part
from tests.ctl.test_luoctl import asked
from tests.ctl.test_wait import DESCRIBED
from tests.impostor import Answer, Impostor, reply


def show(folder: Path, about: bytes, *options: str) -> Any:
    """Shows a session whose program says `about`, in the bytes of JSON."""
    with memfd("manifest", PART_SIZE, executable=False) as part:
        os.pwrite(part.fileno(), new_part(), 0)
        log = Log()
        log.part_made(MANIFEST_TOKEN)
        for write in log.about(about):
            os.pwrite(part.fileno(), write.data, write.offset)
        manifest = Answer(reply({"manifest_fd": 0}), fds=[part.fileno()])
        with Impostor(folder, Answer(reply({"sessions": [DESCRIBED]})), manifest, manifest) as impostor:
            return asked(impostor, *options, "show", "vm")


def test_what_a_program_says_is_escaped_and_not_taken_for_what_luod_says(tmp_path: Path) -> None:
    long = "x" * 1000
    shown = show(tmp_path, json.dumps({"owner": "1000", "\x1b[2J": "\x1b[2J", long: 1}).encode())

    assert shown.returncode == 0
    facts = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines()[:-1] if " " in line)
    assert (facts["owner"], facts["about.owner"]) == ("0", "1000")
    assert facts["about.\\x1b[2J"] == "\\x1b[2J"
    assert "\x1b" not in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) < 100


def test_what_is_not_json_does_not_come_into_the_json(tmp_path: Path) -> None:
    for about in (b'{"x": NaN}', b'{"x": [1e999]}'):
        shown = json.loads(show(tmp_path, about, "--json").stdout)
        assert (shown["files"], shown["about"]) == ([], {})
        assert "is not JSON" in shown["note"]
