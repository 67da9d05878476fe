"""What a kernel makes of its command line. The emulated kernel reads its own with this, and luod the next one's."""

from __future__ import annotations


def enabled(command_line: str, parameter: str, *, default: bool = False) -> bool:
    """Whether a boolean early parameter is on: the last setting that the kernel understands wins, without any `default`
    does.
    """
    on = default
    for name, value in parameters(command_line):
        if name != parameter or value is None:
            continue
        if value[:1] in ("y", "Y", "t", "T", "1") or value[:2].lower() == "on":
            on = True
        elif value[:1] in ("n", "N", "f", "F", "0") or value[:2].lower() == "of":
            on = False
    return on


def parameters(command_line: str) -> list[tuple[str, str | None]]:
    """The kernel's own parameters in their order, up to `--`; None for one without `=`."""
    found: list[tuple[str, str | None]] = []
    for word in words(command_line):
        if word == "--":
            break
        name, equals, value = word.partition("=")
        found.append((name, value.strip('"') if equals else None))
    return found


def words(command_line: str) -> list[str]:
    """Returns the words: the text is split at white space that is not between double quotes."""
    found = [""]
    quoted = False
    for character in command_line:
        quoted ^= character == '"'
        if character.isspace() and not quoted:
            found.append("")
        else:
            found[-1] += character
    return [word for word in found if word]
