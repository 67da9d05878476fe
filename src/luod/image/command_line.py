"""The kernel's view of a command line. The emulated kernel reads its own with this, and luod the next kernel's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from luod.frozen import frozen

_BLANKS: Final = " \t\n\r\v\f"
# include/linux/ctype.h includes the no-break space of Latin-1.
_KERNEL_BLANKS: Final = _BLANKS + "\xa0"


@frozen
class Line:
    """A command line as a kernel assembles it.

    `early`: parsed first, for parameters such as `liveupdate=` and `kho=`. `whole`: parsed for all other parameters,
    and shown in /proc/cmdline.
    """

    early: str
    whole: str

    def last(self, parameter: str) -> str | None:
        """Returns the value that the kernel keeps of one of its parameters: the last; "" without a value, None if
        missing.
        """
        values = [value or "" for name, value in parameters(self.whole) if same(name, parameter)]
        return values[-1] if values else None


def line(given: str, options: Mapping[str, str] | None = None, boot_config: tuple[str, str] | None = None) -> Line:
    """Returns the command line that the kernel assembles.

    It has the command line that a boot loader gives; the one that is built into a kernel with these `options` (None:
    not known); and the parameters for the kernel and for init of a boot configuration after its initial RAM disk, if
    the `bootconfig` parameter or option enables it.
    """
    early = _with_built_in(given, {} if options is None else options)
    asked = any(name == "bootconfig" for name, _value in parameters(early))
    forced = options is not None and options.get("CONFIG_BOOT_CONFIG_FORCE") == "y"
    without = options is not None and options.get("CONFIG_BOOT_CONFIG", "n") == "n"
    if boot_config is None or without or not (asked or forced):
        return Line(early, early)
    kernel, init = boot_config
    whole = f"{kernel} {early}" if kernel else early
    if init:
        before, dashes, behind = _split(whole)
        whole = f"{before} -- {init} {behind}" if dashes else f"{whole} -- {init}"
    return Line(early, whole)


def enabled(command_line: str, parameter: str, *, default: bool = False, bare: bool = False) -> bool:
    """Returns whether a boolean parameter is on: the last setting that the kernel understands, or `default`.

    `bare`: the parameter without a value is on, as with module_param() and core_param().
    """
    on = default
    for name, value in parameters(command_line):
        if not same(name, parameter):
            continue
        if value is None:
            on = on or bare
        elif value[:1] in ("y", "Y", "t", "T", "1") or value[:2].lower() == "on":
            on = True
        elif value[:1] in ("n", "N", "f", "F", "0") or value[:2].lower() == "of":
            on = False
    return on


def same(name: str, parameter: str) -> bool:
    """Returns whether two names are of one parameter: the kernel treats "-" as "_"."""
    return name.replace("-", "_") == parameter.replace("-", "_")


def parameters(command_line: str) -> list[tuple[str, str | None]]:
    """Returns the kernel's own parameters in order, up to `--`; None for one without `=`.

    As next_arg() of the kernel.
    """
    found: list[tuple[str, str | None]] = []
    for word in words(command_line):
        if word == "--":
            break
        found.append(_parameter(word))
    return found


def words(command_line: str) -> list[str]:
    """Returns the words: the text is split at white space outside of double quotes. The quotes stay."""
    found = [""]
    quoted = False
    for character in command_line:
        quoted ^= character == '"'
        if character in _KERNEL_BLANKS and not quoted:
            found.append("")
        else:
            found[-1] += character
    return [word for word in found if word]


def unquoted(command_line: str) -> list[tuple[str, str | None]]:
    """Returns all parameters as systemd reads them in /proc/cmdline: single and double quotes, and no end at `--`."""
    found = [""]
    quote = ""
    started = False
    for character in command_line:
        if quote:
            quote, character = ("", "") if character == quote else (quote, character)
        elif character in "\"'":
            quote, character, started = character, "", True
        elif character in _BLANKS:
            if found[-1] or started:
                found.append("")
            started = False
            continue
        found[-1] += character
    pairs = [word.partition("=") for word in found]
    return [(name, value if equals else None) for name, equals, value in pairs if name or equals]


def _parameter(word: str) -> tuple[str, str | None]:
    quoted = word.startswith('"')
    if quoted:
        word = word[1:]
    equals = word.find("=", 1)
    name, value = (word, None) if equals < 0 else (word[:equals], word[equals + 1 :])
    if value is not None and value.startswith('"'):
        value = value[1:].removesuffix('"')
    elif quoted and value is not None:
        value = value.removesuffix('"')
    elif quoted:
        name = name.removesuffix('"')
    return name, value


def _with_built_in(given: str, options: Mapping[str, str]) -> str:
    """Returns the line with the built-in one, by architecture: x86 puts it before, arm64 after, or uses it alone."""
    built_in = options.get("CONFIG_CMDLINE", "n")
    if options.get("CONFIG_ARM64") == "y":
        if built_in in ("n", "") or (options.get("CONFIG_CMDLINE_FORCE") != "y" and given):
            return given
        return built_in
    if options.get("CONFIG_CMDLINE_BOOL", "n") != "y" or built_in in ("n", ""):
        return given
    return built_in if options.get("CONFIG_CMDLINE_OVERRIDE") == "y" else f"{built_in} {given}"


def _split(command_line: str) -> tuple[str, bool, str]:
    """Returns the text before `--`, whether there is one, and the text after it."""
    all_words = words(command_line)
    if "--" not in all_words:
        return command_line, False, ""
    at = all_words.index("--")
    return " ".join(all_words[:at]), True, " ".join(all_words[at + 1 :])
