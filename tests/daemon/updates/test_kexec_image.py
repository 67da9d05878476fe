"""Which image an update starts, and when it is loaded: never while guests are paused, unless another process did."""

from __future__ import annotations

from luod.testing import Machine
from tests.daemon.host import LOAD_LIMIT as LIMIT
from tests.daemon.host import Luod, without_counted_loads
from tests.daemon.participant import Operator, Participant, begin, jump_with, prepare


def left(machine: Machine) -> int:
    return int(machine.read(LIMIT))


def load_another(luod: Luod) -> None:
    """Loads an image by another process than luod."""
    luod.vmm().call("load", kernel=luod.machine.kernel, command_line="liveupdate=on kho=on another=1")


def frozen(luod: Luod) -> tuple[Participant, Operator]:
    """Returns a participant that is paused in an update, and the operator of the update."""
    one = Participant(luod, "one")
    operator = begin(luod)
    prepare(one)
    one.expect("freezing")
    return one, operator


def test_an_update_needs_two_loads_and_none_of_them_while_guests_are_paused(luod: Luod) -> None:
    luod.machine.write(LIMIT, b"2")
    one, _operator = frozen(luod)
    assert left(luod.machine) == 0
    jump_with(luod, one)
    assert luod.machine.boot == 2


def test_an_image_that_another_process_loads_while_guests_are_paused_is_not_started(luod: Luod) -> None:
    one, _operator = frozen(luod)
    load_another(luod)
    jump_with(luod, one)
    assert b"another" not in luod.machine.read("/proc/cmdline")
    assert luod.vmm().call("sessions")


def test_an_image_that_another_process_loads_while_guests_run_is_replaced_before_they_are_paused(luod: Luod) -> None:
    one = Participant(luod, "one")
    begin(luod)
    one.expect("preparing")
    load_another(luod)
    after_it = left(luod.machine)
    one.vote("preparing")
    one.expect("freezing")
    assert left(luod.machine) == after_it - 1
    jump_with(luod, one)
    assert b"another" not in luod.machine.read("/proc/cmdline")


def test_an_update_is_cancelled_if_no_load_is_left_in_place_of_the_other_image(luod: Luod) -> None:
    luod.machine.write(LIMIT, b"3")
    one, operator = frozen(luod)
    load_another(luod)
    one.vote("freezing")
    assert "kexec_load_limit_reboot is 0" in operator.until("cancelled")["reason"]
    assert luod.machine.boot == 1


def test_an_update_without_a_load_left_is_refused_before_it_begins(luod: Luod) -> None:
    luod.machine.write(LIMIT, b"1")
    luod.load()
    refused = luod.luoctl("update", check=False)
    assert (refused.returncode, b"kexec-load-limit" in refused.stderr) == (4, True)


def test_luod_keeps_the_limit_of_an_administrator(luod: Luod) -> None:
    luod.machine.write(LIMIT, b"100")
    luod.load()
    assert left(luod.machine) == 99


def test_where_loads_are_not_counted_the_image_is_loaded_again_while_guests_are_paused(luod: Luod) -> None:
    without_counted_loads(luod)
    findings = luod.answer("check", "--kernel", luod.machine.kernel, "--reuse-cmdline")["findings"]
    assert "loads-not-counted" in [each["name"] for each in findings]
    one = Participant(luod, "one")
    operator = begin(luod)
    one.expect("preparing")
    load_another(luod)
    one.vote("preparing")
    operator.until("freezing")
    jump_with(luod, one)
    assert b"another" not in luod.machine.read("/proc/cmdline")


def test_loading_the_loaded_image_changes_nothing_and_says_so(luod: Luod) -> None:
    image = ("load", "--kernel", luod.machine.kernel)
    assert luod.luoctl_json(*image)["changed"] is True
    before = left(luod.machine)
    assert luod.luoctl_json(*image)["changed"] is False
    assert left(luod.machine) == before
    assert luod.luoctl(*image).text.startswith("nothing to do: luod has already loaded ")


def test_a_copy_of_the_loaded_image_is_the_same_and_another_command_line_is_not(luod: Luod) -> None:
    luod.machine.write("/run/copy", luod.machine.read(luod.machine.kernel))
    line = ("--cmdline", "liveupdate=on kho=on")
    luod.luoctl("load", "--kernel", luod.machine.kernel, *line)
    assert luod.luoctl_json("load", "--kernel", "/run/copy", *line)["changed"] is False
    assert luod.luoctl_json("load", "--kernel", "/run/copy", "--cmdline", "liveupdate=on kho=on quiet")["changed"]
    luod.machine.write("/run/copy", luod.machine.read(luod.machine.kernel)[:-1] + b"\1")
    assert luod.luoctl_json("load", "--kernel", "/run/copy", *line)["changed"] is True


def test_an_image_that_the_kernel_may_have_lost_is_loaded_again(luod: Luod) -> None:
    image = ("load", "--kernel", luod.machine.kernel)
    luod.luoctl(*image)
    load_another(luod)
    assert luod.luoctl_json(*image)["changed"] is True
    luod.kill_serve()
    luod.luoctl("wait")
    assert luod.luoctl_json(*image)["changed"] is True


def test_an_unloaded_image_is_loaded_no_more_and_a_second_unload_changes_nothing(luod: Luod) -> None:
    luod.load()
    assert luod.luoctl_json("unload")["changed"] is True
    assert luod.machine.read("/sys/kernel/kexec_loaded").strip() == b"0"
    assert (luod.status()["kernel_loaded"], luod.answer("update")["error"]) == (False, "NoImageLoaded")
    assert luod.luoctl_json("unload")["changed"] is False
    assert luod.luoctl("unload").text == "nothing to do: no kernel is loaded"


def test_an_image_is_not_unloaded_in_an_update(luod: Luod) -> None:
    one, _operator = frozen(luod)
    assert luod.answer("unload")["error"] == "UpdateRunning"
    jump_with(luod, one)
    assert luod.machine.boot == 2
