"""Preflight on an emulated machine: what `luoctl check` finds, and what `luoctl update` refuses, ignored or not.

The rules themselves, on facts made up: test_rules.py; on images: test_images.py; on real ones:
tests/kernel/test_preflight.py.
"""

from __future__ import annotations

import json
import os
from typing import Any

from luod.emulator.machine.stub import FORMATS, bzimage
from tests.daemon.host import Luod
from tests.daemon.participant import Operator, Participant, file

GOOD = "liveupdate=on kho=on panic=-1"
KERNEL = "/run/next-kernel"
F_SEAL_EXEC = 0x20


def check(luod: Luod, kernel: bytes) -> dict[str, Any]:
    """Runs `luoctl check` on a kernel. Returns its JSON, and the names of the findings."""
    luod.machine.write(KERNEL, kernel)
    result = luod.luoctl("--json", "check", "--kernel", KERNEL, "--cmdline", GOOD, check=False)
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.returncode == (4 if found["refused"] else 0)
    return found


def refusals(found: dict[str, Any]) -> list[str]:
    return [each["name"] for each in found["findings"] if each["severity"] == "refusal" and not each["ignored"]]


def warnings(found: dict[str, Any]) -> set[str]:
    return {each["name"] for each in found["findings"] if each["severity"] == "warning"}


def without(*families: str) -> bytes:
    return bzimage(formats=tuple(name for name in FORMATS if name.rpartition("-v")[0] not in families))


# -- The next kernel ----------------------------------------------------------------------------------------------


def test_a_kernel_that_takes_everything_over_is_not_refused(shared_luod: Luod) -> None:
    found = check(shared_luod, bzimage(release="7.3.9-next"))
    assert (refusals(found), found["release"]) == ([], "7.3.9-next")
    assert shared_luod.status()["kernel_loaded"] is False


def test_h20_a_kernel_without_live_update_is(shared_luod: Luod) -> None:
    found = check(shared_luod, without("luo", "kho", "memfd"))
    assert refusals(found) == ["luo-missing", "kho-missing", "handler-missing"]
    assert all(each["what"] and each["why"] and each["remedy"] for each in found["findings"])


def test_nothing_is_checked_that_is_not_there(shared_luod: Luod) -> None:
    result = shared_luod.luoctl("check", check=False)
    assert (result.returncode, "no kernel was loaded" in result.stderr.decode()) == (4, True)
    assert shared_luod.luoctl("check", "--append-cmdline", "x", check=False).returncode == 2
    assert shared_luod.luoctl("check", "--kernel", "/dev/null", check=False).returncode == 2


def test_people_read_what_was_found_why_and_what_to_do(shared_luod: Luod) -> None:
    shared_luod.machine.write(KERNEL, without("luo"))
    result = shared_luod.luoctl("check", "--kernel", KERNEL, "--cmdline", GOOD, check=False)
    assert "REFUSED  luo-missing: the next kernel has no live update" in result.text
    assert "why: " in result.text
    assert "do:  load a kernel built with CONFIG_LIVEUPDATE=y" in result.text
    assert "update refused: Linux " in result.text


# -- What is held ------------------------------------------------------------------------------------------------


def test_a_session_that_nobody_declared_is_refused_unless_ignored(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="plain", slot="s")
    luod.load()
    result = luod.luoctl("update", check=False)
    assert (result.returncode, "contents-undeclared" in result.stderr.decode()) == (4, True)
    assert "--ignore-finding contents-undeclared" in result.stderr.decode()
    assert luod.status()["generation"] == 0
    luod.update(ignore=["contents-undeclared"])
    luod.start()
    assert luod.status()["waiting"] == 1


def test_memory_that_would_come_back_sealed_is_refused(luod: Luod) -> None:
    one = Participant(luod, "one")
    assert refusals(check(luod, bzimage())) == []
    one.declare(file(1) | {"seals": F_SEAL_EXEC, "name": "ram"})
    found = check(luod, bzimage())
    assert refusals(found) == ["sealed-memory"]
    assert "one (ram)" in found["findings"][0]["what"]


def test_memory_that_is_not_there_is_refused(luod: Luod) -> None:
    one = Participant(luod, "one")
    one.declare(file(1, size=1 << 50, allocated=0, when="freezing"))
    assert "memory-preserve" in refusals(check(luod, bzimage()))


def test_a_kind_of_file_that_luod_does_not_know_is_warned_of(luod: Luod) -> None:
    one = Participant(luod, "one")
    one.declare(file(1, kind="gpu"))
    found = check(luod, bzimage())
    assert (refusals(found), "kind-unknown" in warnings(found)) == ([], True)


def test_an_initrd_that_no_kernel_can_use_is_not_loaded_unless_ignored(luod: Luod) -> None:
    """kexec_file_load takes any file for one."""
    luod.machine.write(KERNEL, bzimage())
    luod.machine.write("/run/initrd", b"\x80garbage")
    given = ("load", "--kernel", KERNEL, "--initrd", "/run/initrd", "--cmdline", GOOD)
    refused = luod.luoctl(*given, check=False)
    assert (refused.returncode, b"initrd-unusable" in refused.stderr) == (4, True)
    assert luod.luoctl_json("status")["kernel_loaded"] is False
    assert luod.luoctl(*given, "--ignore-finding", "no-such", check=False).returncode == 4
    luod.luoctl(*given, "--ignore-finding", "initrd-unusable")
    assert luod.luoctl_json("status")["kernel_loaded"] is True


# -- Updates -----------------------------------------------------------------------------------------------------


def test_an_update_into_a_kernel_that_loses_everything_is_refused_unless_ignored(luod: Luod) -> None:
    one = Participant(luod, "one")
    luod.machine.write(KERNEL, without("luo"))
    luod.load(KERNEL)
    operator = Operator(luod)
    operator.update()
    error = operator.refused()
    assert (error.kind, error.message) == ("Refused", error.message)
    assert error.message.startswith("luo-missing: ")
    operator.update(findings=["kho-missing"])
    assert operator.refused().message.startswith("luo-missing: ")
    operator.update(findings=["luo-missing"])
    first = operator.next()
    assert first is not None
    assert [each["name"] for each in first["findings"] if each["ignored"]] == ["luo-missing"]
    one.expect("preparing")
    one.vote("preparing", "veto")
    operator.until("cancelled")


def test_a_name_that_is_no_findings_is_refused(luod: Luod) -> None:
    luod.load()
    result = luod.luoctl("update", "--ignore-finding", "everything", check=False)
    assert (result.returncode, "everything" in result.stderr.decode()) == (4, True)


def test_a_name_that_is_no_findings_is_refused_before_its_kernel_is_loaded(shared_luod: Luod) -> None:
    given = ("--kernel", shared_luod.machine.kernel, "--reuse-cmdline", "--ignore-finding", "everything")
    for more in ((), ("--dry-run",)):
        result = shared_luod.luoctl("update", *given, *more, check=False)
        assert (result.returncode, "everything" in result.stderr.decode()) == (4, True)
    assert shared_luod.status()["kernel_loaded"] is False


def test_a_dry_run_shows_all_of_it(luod: Luod) -> None:
    Participant(luod, "one")
    luod.vmm().call("create", name="plain", slot="s")
    luod.machine.write(KERNEL, without("luo"))
    luod.load(KERNEL)
    result = luod.luoctl("--json", "update", "--dry-run", check=False)
    shown = json.loads(result.stdout)
    assert (result.returncode, shown["state"]) == (4, "checked")
    assert refusals(shown) == ["luo-missing", "contents-undeclared"]
    assert "no-panic" in warnings(shown)
    ignored = [f"--ignore-finding={name}" for name in refusals(shown)]
    assert luod.luoctl("update", "--dry-run", *ignored).returncode == 0
    text = luod.luoctl("update", "--dry-run", check=False).text
    assert "REFUSED  luo-missing" in text
    assert "warning  no-panic" in text


def test_an_update_may_bring_its_kernel(luod: Luod) -> None:
    Participant(luod, "one").vmm.program.kill()
    given = ("--kernel", KERNEL, "--cmdline", GOOD + " second=1")
    luod.machine.write(KERNEL, without("luo"))
    refused = luod.luoctl("--json", "update", *given, check=False)
    error = json.loads(refused.stdout)
    assert (refused.returncode, error["error"]) == (4, "Refused")
    assert error["message"].startswith("luo-missing: the next kernel has no live update")
    assert error["message"].endswith("; and participant-missing")
    assert luod.luoctl("update", *given, "--dry-run", check=False).returncode == 4
    luod.machine.write(KERNEL, bzimage())
    dry = luod.luoctl("update", *given, "--dry-run", "--skip-unready")
    assert "ignored  participant-missing" in dry.text
    assert luod.status()["kernel_loaded"] is False
    with luod.machine.expect_jump():
        luod.luoctl("update", *given, "--skip-unready")
    assert b"second=1" in luod.machine.read("/proc/cmdline")


def test_h19_an_image_that_was_written_to_after_its_check_is_not_jumped_into(luod: Luod) -> None:
    one = Participant(luod, "one")
    luod.machine.write(KERNEL, bzimage())
    luod.load(KERNEL)
    operator = Operator(luod)
    operator.update()
    one.expect("preparing")
    # In place, as cp does it: luod has this very file open.
    luod.machine.write(KERNEL, without("luo"))
    one.vote("preparing")
    one.expect("cancelled")
    assert "modified after the check" in operator.until("cancelled")["reason"]


def test_fds_that_are_no_files_are_unreadable_images_and_are_closed(shared_luod: Luod) -> None:
    result = shared_luod.luoctl("--json", "check", "--kernel", "/proc/self/mem", "--cmdline", GOOD, check=False)
    found = json.loads(result.stdout)
    assert refusals(found) == ["image-unreadable"], os.fsdecode(result.stdout)
    assert [link for link in shared_luod.links(shared_luod.serve_pid()) if link.endswith("/mem")] == []
