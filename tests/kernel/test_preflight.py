"""Preflight on a real kernel, with real images: this kernel, and 7.3 built without live update or a handler.

`kernel/build --variants` builds those; `make test-kernel` runs it. tests/kernel/hazards/test_next_kernel.py shows that
everything is lost after a kexec into such a kernel.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from luod.testing.kernel import qemu
from tests.daemon.host import Luod
from tests.image.archives import cpio

MIB = 1 << 20


def variant(name: str) -> Path:
    image = Path(qemu.kernel_image()).parent / "variants" / name / "bzImage"
    if not image.exists():
        pytest.skip(f"there is no {image}: kernel/build --variants builds it")
    return image


def check(luod: Luod, kernel: Path | str, initrd: Path | str | None = None) -> dict[str, Any]:
    options = ["--initrd", str(initrd or luod.machine.initrd), "--reuse-cmdline"]
    result = luod.luoctl("--json", "check", "--kernel", str(kernel), *options, check=False)
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.returncode == (4 if found["refused"] else 0)
    return found


def refusals(found: dict[str, Any]) -> list[str]:
    return [each["name"] for each in found["findings"] if each["severity"] == "refusal"]


def test_the_kernel_that_runs_may_be_jumped_into_again(luod: Luod) -> None:
    version = Path(qemu.kernel_image()).with_name("version").read_text().partition("-")[0]
    found = check(luod, qemu.kernel_image())
    assert (found["refused"], found["release"]) == (False, version)
    assert [each["name"] for each in found["findings"]] == ["no-watchdog"]
    assert found["current"]


def test_an_update_into_the_kernel_that_runs_can_be_left_out(luod: Luod) -> None:
    files = ["--kernel", qemu.kernel_image(), "--initrd", str(luod.machine.initrd)]

    same = luod.answer("update", "--unless-current", *files)
    other = luod.luoctl("--json", "check", *files, "--append-cmdline", "another")

    assert same == {"version": 1, "status": 0, "state": "current"}
    assert not json.loads(other.stdout)["current"]
    assert luod.status()["generation"] == 0


@pytest.mark.parametrize(
    ("name", "names", "option"),
    [
        ("no-luo", ["luo-missing", "handler-missing"], "CONFIG_LIVEUPDATE"),
        ("no-memfd", ["handler-missing"], None),
    ],
)
def test_h20_a_kernel_built_without_it_is_refused(luod: Luod, name: str, names: list[str], option: str | None) -> None:
    found = check(luod, variant(name))
    assert refusals(found) == names
    if option is not None:
        assert f"built without {option}" in found["findings"][0]["what"]

    luod.load(str(variant(name)))
    update = luod.luoctl("update", check=False)
    assert (update.returncode, names[0] in update.stderr.decode()) == (4, True)
    assert luod.status()["generation"] == 0


@pytest.mark.parametrize(("size", "names"), [(128 * MIB, []), (256 * MIB, ["scratch-too-small"])])
def test_h21_what_does_not_fit_the_memory_kept_for_it_is_refused(
    luod: Luod, tmp_path: Path, size: int, names: list[str]
) -> None:
    """As the kernel itself refuses to load it: tests/kernel/hazards/test_jump.py."""
    initrd = tmp_path / "initrd"
    initrd.write_bytes(cpio({"init": b""}))
    os.truncate(initrd, size)
    assert refusals(check(luod, qemu.kernel_image(), initrd)) == names
