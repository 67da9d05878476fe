"""The program that Ansible runs in place of ssh: `python3 -m luod.fleet.ssh HOSTS SSH-ARGUMENTS…` enters a host.

HOSTS is a JSON file of directories by the address that the inventory gives. Of ssh's options only -V has a meaning.
The exit status is that of the command, or 255 if the host cannot be reached or ended meanwhile, as of ssh. It imports
nothing but `remote`, since Ansible runs it for each task of each host.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from luod.fleet import remote

_WITH_VALUE = "BbcDEeFIiJLlmOopQRSWw"
"""ssh's options that have a value."""


def parse(words: Sequence[str]) -> tuple[str, str] | None:
    """Returns the host, without a user, and the command; None: no command is given, such as with -V or -O."""
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "--":
        word = rest.pop(0)
        letters = word[1:]
        if "V" in letters or letters[0] in "OQ":
            return None
        # The value follows in the word, or is the next one.
        position = next((number for number, letter in enumerate(letters) if letter in _WITH_VALUE), None)
        if position == len(letters) - 1 and rest:
            rest.pop(0)
    if rest and rest[0] == "--":
        rest.pop(0)
    return (rest[0].rpartition("@")[2], " ".join(rest[1:])) if len(rest) > 1 else None


def main(words: Sequence[str]) -> int:
    found = parse(words[1:])
    if found is None:
        print("OpenSSH_0.0 luod-fleet", file=sys.stderr)
        return 0
    address, command = found
    with open(words[0], encoding="utf-8") as file:
        directory = json.load(file).get(address)
    if directory is None:
        print(f"ssh: this rehearsal has no host {address}", file=sys.stderr)
        return 255
    try:
        status = remote.run(f"{directory}/ssh", command, (0, 1, 2))
    except OSError as error:
        print(f"ssh: connect to host {address}: {error.strerror}", file=sys.stderr)
        return 255
    if status is None:
        print(f"Connection to {address} closed by remote host.", file=sys.stderr)
        return 255
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
