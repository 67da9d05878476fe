"""The command line as a kernel assembles and parses it: quotes, the built-in line, boot configuration."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as some

from luod.errors import ImageError
from luod.image import boot_config, command_line
from luod.image.command_line import enabled, line, parameters
from luod.image.contents import contents
from tests.image.archives import cpio, with_boot_config


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=1 b", [("a", "1"), ("b", None)]),
        ('a="1 2" b', [("a", "1 2"), ("b", None)]),
        ('"a=1 2" b', [("a", "1 2"), ("b", None)]),
        ('a=x"1 2"', [("a", 'x"1 2"')]),
        ("a=1 -- b=2", [("a", "1")]),
        ("a=--  \t b\n", [("a", "--"), ("b", None)]),
        ("a=b=c =d", [("a", "b=c"), ("=d", None)]),
    ],
)
def test_parameters_are_split_as_the_kernel_splits_them(text: str, found: list[tuple[str, str | None]]) -> None:
    assert parameters(text) == found


def test_a_hyphen_in_a_name_is_an_underscore() -> None:
    assert line("module-blacklist=a panic=1 panic=2").last("module_blacklist") == "a"
    assert line("panic=1 panic=2").last("panic") == "2"
    assert enabled("live-update=on", "live_update")


BUILT_IN = {"CONFIG_CMDLINE_BOOL": "y", "CONFIG_CMDLINE": "kho=on"}


@pytest.mark.parametrize(
    ("options", "whole"),
    [
        (None, "given"),
        ({}, "given"),
        (BUILT_IN, "kho=on given"),
        ({**BUILT_IN, "CONFIG_CMDLINE_BOOL": "n"}, "given"),
        ({**BUILT_IN, "CONFIG_CMDLINE_OVERRIDE": "y"}, "kho=on"),
        ({"CONFIG_ARM64": "y", "CONFIG_CMDLINE": "kho=on"}, "given"),
        ({"CONFIG_ARM64": "y", "CONFIG_CMDLINE": "kho=on", "CONFIG_CMDLINE_FORCE": "y"}, "kho=on"),
    ],
)
def test_what_is_built_in_counts(options: dict[str, str] | None, whole: str) -> None:
    assert line("given", options).whole == line("given", options).early == whole


def test_quotes_in_a_built_in_command_line_are_read() -> None:
    text = b'CONFIG_CMDLINE="a=\\"b c\\" d"\nCONFIG_CMDLINE_BOOL=y\n'
    options = contents(b"IKCFG_ST" + gzip.compress(text) + b"IKCFG_ED").options
    assert parameters(line("", options).whole) == [("a", "b c"), ("d", None)]


# -- Boot configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kernel", "init"),
    [
        ('kernel.foo = "bar"', "foo=bar", ""),
        ("kernel {\n foo = 1, 2\n bar\n}\ninit.x = y", "foo=1 foo=2 bar", "x=y"),
        ("kernel.a.b = c d; kernel.a.e = 'f'", 'a.b="c d" a.e=f', ""),
        ("# comment\nkernel.a = 1 # another\nkernel.a += 2\nkernel.b := 3\n", "a=1 a=2 b=3", ""),
        ("kernel.a = 1\nkernel.a := 2\n", "a=2", ""),
        ("kernel.a = 1, # one\n 2\n", "a=1 a=2", ""),
        ("kernel { a { b = 1 } c = 2 }", "a.b=1 c=2", ""),
        ("kernel.a =\nkernel.b;", "a= b", ""),
        ("other.a = 1\n", "", ""),
    ],
)
def test_boot_configuration_becomes_parameters(text: str, kernel: str, init: str) -> None:
    assert boot_config.parse(text.encode() + b"\0") == (kernel, init)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a = 1\na = 2\n",
        "a {",
        "a }",
        "a + 1\n",
        "a = 'b",
        "a b = 1\n",
        'a = "b" c\n',
        "a",
        "a = \1\n",
        "a.." + "b\n",
        "a" * 256 + "\n",
        "a {" * 17 + "}" * 17,
        ".".join("a" * 17) + "\n",
    ],
)
def test_a_boot_configuration_that_the_kernel_refuses_is_an_error(text: str) -> None:
    with pytest.raises(ImageError, match="boot configuration"):
        boot_config.parse(text.encode())


@pytest.mark.parametrize("behind", [b"", b"\0", b"\0\0\0"])
def test_a_boot_configuration_is_no_part_of_the_disk(behind: bytes) -> None:
    disk = cpio({"a": b"1"})
    end, text = boot_config.tail(with_boot_config(disk, "kernel.a\n", behind=behind))
    assert (end, text is not None and text.rstrip(b"\0")) == (len(disk), b"kernel.a\n")


def test_a_boot_configuration_with_a_wrong_checksum_or_size_is_none() -> None:
    disk = cpio({"a": b"1"})
    wrong = with_boot_config(disk, "kernel.a\n", checksum=1)
    assert boot_config.tail(wrong) == (len(wrong), None)
    alone = with_boot_config(disk, "kernel.a\n")[len(disk) + 4 :]
    assert boot_config.tail(alone) == (len(alone), None)
    assert boot_config.tail(b"#BOOTCONFIG\n") == (12, None)


def test_a_boot_configuration_counts_only_where_it_is_asked_for() -> None:
    both = ("module_blacklist=a", "x")
    assert line("quiet", None, both).whole == "quiet"
    assert line("quiet -- bootconfig", None, both).whole == "quiet -- bootconfig"
    assert line("bootconfig quiet", None, both).whole == "module_blacklist=a bootconfig quiet -- x"
    assert line("bootconfig -- y", {"CONFIG_BOOT_CONFIG": "y"}, both).whole == "module_blacklist=a bootconfig -- x y"
    assert line("bootconfig", {"CONFIG_BOOT_CONFIG": "n"}, both).whole == "bootconfig"
    forced = {"CONFIG_BOOT_CONFIG": "y", "CONFIG_BOOT_CONFIG_FORCE": "y"}
    assert line("quiet", forced, ("a", "")).whole == "a quiet"


def test_a_boot_configuration_comes_too_late_for_early_parameters() -> None:
    assert line("bootconfig", None, ("liveupdate=on", "")).early == "bootconfig"


def test_systemd_reads_both_kinds_of_quotes() -> None:
    assert command_line.unquoted("a='b c' \"d=e f\" -- g") == [("a", "b c"), ("d", "e f"), ("--", None), ("g", None)]


@given(text=some.text(max_size=80))
def test_any_text_is_split(text: str) -> None:
    parameters(text)
    command_line.unquoted(text)
    line(text, BUILT_IN, (text, text))


@given(text=some.text("abc.={};:+,#\"' \n", max_size=60))
def test_any_boot_configuration_is_parsed_or_refused(text: str) -> None:
    try:
        boot_config.parse(text.encode())
    except ImageError:
        return
