"""Makes the next kernel's command line from the options and the running kernel's command line. No I/O.

`luod.image.command_line` parses a command line as the kernel does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from luod.errors import BadInput
from luod.image.command_line import words

_ADDED_BY_LOADERS: Final = frozenset({"BOOT_IMAGE", "elfcorehdr", "initrd", "kexec_jump_back_entry"})
"""Boot loaders and kexec-tools add these parameters. They name files and addresses of the kernel that they started."""


def next_line(
    running: str, *, cmdline: str | None = None, append: Sequence[str] = (), reuse_cmdline: bool = False
) -> str:
    """Returns the command line. `running` is the text of /proc/cmdline.

    `cmdline` is the whole line. `append` is added to the running kernel's line, in the order given. With neither, the
    line is the running kernel's; `reuse_cmdline` requests that explicitly. Raises BadInput for a contradiction.
    """
    if cmdline is None:
        line = reused(running)
        for text in append:
            line = added(line, text)
        return line
    if append:
        raise BadInput(
            "--cmdline gives the whole command line, and --append-cmdline adds to the running kernel's",
            hint="use one of them",
        )
    if reuse_cmdline:
        raise BadInput(
            "--cmdline gives the whole command line, and --reuse-cmdline takes the running kernel's",
            hint="use one of them; --append-cmdline TEXT adds to the running kernel's command line",
        )
    return cmdline


def reused(running: str) -> str:
    """Returns the running kernel's command line without the parameters that a boot loader added for that kernel."""
    return " ".join(word for word in words(running) if word.partition("=")[0] not in _ADDED_BY_LOADERS)


def added(line: str, text: str) -> str:
    """Returns `line` with the words of `text` behind its own.

    The kernel uses the last of several settings of one parameter. A word of `line` that `text` repeats is removed
    from its earlier place. The words behind `--`, which are for init, stay behind those for the kernel. Raises BadInput
    if `text` has an unterminated quote.
    """
    if text.count('"') % 2:
        raise BadInput(
            f"unterminated double quote in --append-cmdline {text}",
            hint="add the closing quote",
        )
    # For the kernel, an unterminated quote ends with the line.
    kernel, init = _parts(words(line + '"' if line.count('"') % 2 else line))
    more, more_init = _parts(_once(words(text)))
    both = [*(word for word in kernel if word not in more), *more]
    arguments = [*init, *more_init]
    return " ".join([*both, "--", *arguments] if arguments else both)


def _parts(found: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in found:
        return found, []
    end = found.index("--")
    return found[:end], found[end + 1 :]


def _once(found: list[str]) -> list[str]:
    """Returns the words. Of a word that is repeated before `--`, only the last stays."""
    kernel, init = _parts(found)
    once = [word for place, word in enumerate(kernel) if word not in kernel[place + 1 :]]
    return [*once, "--", *init] if init else once
