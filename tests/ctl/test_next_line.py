"""The next kernel's command line, from the running kernel's and the operator's options."""

from __future__ import annotations

import pytest

from luod.ctl.next_line import next_line
from luod.errors import BadInput
from luod.image.command_line import enabled, parameters

RUNNING = 'BOOT_IMAGE=/vmlinuz-7.3 root=/dev/vda1 ro console=tty0 console=ttyS0 dyndbg="file drivers/usb/* +p" quiet'
REUSED = 'root=/dev/vda1 ro console=tty0 console=ttyS0 dyndbg="file drivers/usb/* +p" quiet'


def test_the_running_line_is_the_default_without_what_its_loader_added() -> None:
    assert next_line(RUNNING) == next_line(RUNNING, reuse_cmdline=True) == REUSED
    assert next_line("initrd=\\\\initrd.img root=a elfcorehdr=0x10 kexec_jump_back_entry=0x2") == "root=a"


def test_append_adds_to_the_running_line() -> None:
    line = f"{REUSED} liveupdate=on kho=on"
    assert next_line(RUNNING, append=["liveupdate=on kho=on"]) == line
    assert next_line(RUNNING, append=["liveupdate=on", "kho=on"], reuse_cmdline=True) == line
    assert next_line(RUNNING, append=[""]) == REUSED
    assert next_line("", append=["root=/dev/vdb"]) == "root=/dev/vdb"


def test_cmdline_is_the_whole_line() -> None:
    assert next_line(RUNNING, cmdline="a  b") == "a  b"
    assert next_line(RUNNING, cmdline="") == ""


def test_the_appended_setting_wins() -> None:
    line = next_line("root=a liveupdate=on liveupdate=off", append=["liveupdate=on"])
    assert line == "root=a liveupdate=off liveupdate=on"
    assert enabled(line, "liveupdate")
    assert not enabled(next_line("kho=on", append=["kho=off"]), "kho")


def test_no_word_is_repeated() -> None:
    assert next_line(RUNNING, append=["quiet"]) == REUSED
    assert next_line("a b", append=["c c a"]) == "b c a"
    assert next_line('x="1 2" y', append=['x="1 2"']) == 'y x="1 2"'


def test_settings_that_a_kernel_collects_stay() -> None:
    assert next_line("console=tty0", append=["console=ttyS0"]) == "console=tty0 console=ttyS0"


def test_words_for_init_stay_behind_those_for_the_kernel() -> None:
    line = next_line("root=a -- single", append=["liveupdate=on"])
    assert line == "root=a liveupdate=on -- single"
    assert enabled(line, "liveupdate")
    assert next_line("root=a", append=["kho=on -- 3 3"]) == "root=a kho=on -- 3 3"
    assert next_line("root=a -- 1", append=["kho=on -- 2"]) == "root=a kho=on -- 1 2"


def test_a_quote_without_its_end_takes_in_nothing_that_is_added() -> None:
    line = next_line('root=a dyndbg="file x', append=["liveupdate=on"])
    assert parameters(line) == [("root", "a"), ("dyndbg", "file x"), ("liveupdate", "on")]
    with pytest.raises(BadInput, match="quote"):
        next_line("root=a", append=['dyndbg="file x', "liveupdate=on"])


@pytest.mark.parametrize(("append", "reuse"), [(["a"], False), ((), True), (["a"], True), ([""], False)])
def test_a_contradiction_says_what_to_do(append: list[str], reuse: bool) -> None:
    with pytest.raises(BadInput) as raised:
        next_line(RUNNING, cmdline="root=b", append=append, reuse_cmdline=reuse)
    assert "--cmdline" in str(raised.value)
    assert "--append-cmdline" in str(raised.value) + raised.value.hint
