"""luod.uapi against the kernel's own headers, by means of the C compiler: every constant, every structure, every field.

The headers are those in $LUOD_UAPI_HEADERS, else the machine's own. Many distributions have older ones than those with
linux/liveupdate.h; `scripts/fetch-uapi-headers` fetches them.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from luod.testing.tools import cannot_run, require_tool
from luod.uapi import kexec, liveupdate, procfs

HEADERS = Path(os.environ.get("LUOD_UAPI_HEADERS", "/usr/include"))

STRUCTURES = {
    "liveupdate_ioctl_create_session": liveupdate.CREATE_SESSION,
    "liveupdate_ioctl_retrieve_session": liveupdate.RETRIEVE_SESSION,
    "liveupdate_session_preserve_fd": liveupdate.SESSION_PRESERVE_FD,
    "liveupdate_session_retrieve_fd": liveupdate.SESSION_RETRIEVE_FD,
    "liveupdate_session_finish": liveupdate.SESSION_FINISH,
    "liveupdate_session_get_name": liveupdate.SESSION_GET_NAME,
}
OURS_ALONE = {"LIVEUPDATE_SESSION_UNPRESERVE_FD"}
"""Named by the kernel document, in no header; the emulated machine's profile `document` has it."""


def header(name: str) -> str:
    path = HEADERS / name
    if not path.exists():
        cannot_run(f"no {name} in {HEADERS}: set LUOD_UAPI_HEADERS to what scripts/fetch-uapi-headers prints")
    require_tool("gcc", package="gcc")
    return re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def ask_compiler(directory: Path, include: str, expressions: list[str]) -> dict[str, int]:
    """Returns the values of C expressions with `include` included, as unsigned 64-bit numbers."""
    lines = [
        f'    printf("%s\\"%s\\": %llu", "{"," if i else ""}", "{text}", (unsigned long long)({text}));'
        for i, text in enumerate(expressions)
    ]
    source = directory / "ask.c"
    source.write_text(
        "\n".join(
            [
                "#include <stddef.h>",
                "#include <stdio.h>",
                f"#include <{include}>",
                "int main(void) {",
                '    printf("{");',
                *lines,
                '    printf("}");',
                "    return 0;",
                "}",
            ]
        ),
        encoding="utf-8",
    )
    program = directory / "ask"
    subprocess.run(["gcc", "-Wall", "-Werror", "-isystem", str(HEADERS), "-o", program, source], check=True)
    answer: dict[str, int] = json.loads(subprocess.run([program], check=True, capture_output=True).stdout)
    return answer


def constants_of(module: ModuleType, prefix: str) -> dict[str, int]:
    return {name: value for name, value in vars(module).items() if name.startswith(prefix) and type(value) is int}


def test_every_constant_of_liveupdate_h_is_ours_with_its_value(tmp_path: Path) -> None:
    text = header("linux/liveupdate.h")
    names = set(re.findall(r"^#define\s+(LIVEUPDATE_\w+)[\s]", text, re.MULTILINE))
    names |= set(re.findall(r"^\s+(LIVEUPDATE_CMD_\w+)\s*[=,]", text, re.MULTILINE))
    assert len(names) >= 16
    values = ask_compiler(tmp_path, "linux/liveupdate.h", sorted(names))
    ours = constants_of(liveupdate, "LIVEUPDATE_")
    assert set(ours) - set(values) == OURS_ALONE
    assert {name: ours.get(name) for name in values} == values


def test_every_structure_of_liveupdate_h_is_ours_field_by_field(tmp_path: Path) -> None:
    text = header("linux/liveupdate.h")
    bodies = dict(re.findall(r"^struct (\w+) \{(.*?)^\};", text, re.MULTILINE | re.DOTALL))
    assert set(bodies) == set(STRUCTURES)
    expected: dict[str, int] = {}
    for name, ours in STRUCTURES.items():
        fields = re.findall(r"(\w+)(?:\[\w+\])?;", bodies[name])
        codes = re.findall(r"\d*[a-zA-Z]", ours.format)
        assert len(fields) == len(codes), name
        expected[f"sizeof(struct {name})"] = ours.size
        offset = 0
        for field, code in zip(fields, codes, strict=True):
            size = struct.calcsize("=" + code)
            expected[f"offsetof(struct {name}, {field})"] = offset
            expected[f"sizeof(((struct {name} *)0)->{field})"] = size
            offset += size
    assert ask_compiler(tmp_path, "linux/liveupdate.h", list(expected)) == expected


@pytest.mark.parametrize(
    ("file", "prefix"), [("linux/kexec.h", "KEXEC_"), ("linux/reboot.h", "LINUX_REBOOT_")], ids=["kexec", "reboot"]
)
def test_constants_of_kexec_and_reboot_have_the_headers_values(tmp_path: Path, file: str, prefix: str) -> None:
    text = header(file)
    ours = constants_of(kexec, prefix)
    # Some are newer than many headers. KEXEC_FILE_FLAGS is the kernel's own set of all flags.
    there = {name: value for name, value in ours.items() if re.search(rf"^#define\s+{name}\b", text, re.MULTILINE)}
    newer = {"KEXEC_FILE_DEBUG", "KEXEC_FILE_NO_CMA", "KEXEC_FILE_FORCE_DTB"}
    assert set(ours) - set(there) <= newer | {"KEXEC_FILE_FLAGS"}
    answers = ask_compiler(tmp_path, file, sorted(there))
    assert {name: value & 0xFFFFFFFF for name, value in answers.items()} == there


def test_the_query_of_mappings_is_that_of_fs_h(tmp_path: Path) -> None:
    text = header("linux/fs.h")
    if "PROCMAP_QUERY" not in text:
        cannot_run(f"linux/fs.h in {HEADERS} is older than Linux 6.11: see scripts/fetch-uapi-headers")
    ours = constants_of(procfs, "PROCMAP_QUERY")
    offsets = [
        f"offsetof(struct procmap_query, {field})" for field in ("query_addr", "vma_start", "vma_flags", "inode")
    ]
    major = "offsetof(struct procmap_query, dev_major)"
    values = ask_compiler(tmp_path, "linux/fs.h", [*ours, "sizeof(struct procmap_query)", *offsets, major])
    assert {name: values[name] & 0xFFFFFFFF for name in ours} == ours
    assert values["sizeof(struct procmap_query)"] == procfs.QUERY.size
    assert [values[offset] for offset in offsets] == [16, 24, 40, 64]
    assert values[major] == 72
